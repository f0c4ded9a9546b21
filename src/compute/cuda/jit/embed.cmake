# df_embed_headers(<target> <function> <headers...>): puts the text of headers (paths below src/) into
# <target> at build time, as `std::span<const deepflight::JitHeader> deepflight::<function>()`, so
# that the program compiles them at run time with no file at hand. Run as a script it does the work.
if(CMAKE_SCRIPT_MODE_FILE)
  set(text "#include \"compute/cuda/jit/source.h\"\nnamespace deepflight {\nnamespace {\n")
  string(APPEND text "constexpr JitHeader kHeaders[] = {\n")
  string(REPLACE "," ";" HEADERS "${HEADERS}")
  foreach(header ${HEADERS})
    file(READ ${SOURCE_DIR}/${header} body)
    string(APPEND text "{\"${header}\", R\"embedded(${body})embedded\"},\n")
  endforeach()
  string(APPEND text "};\n}  // namespace\nstd::span<const JitHeader> ${FUNCTION}() {"
         " return kHeaders; }\n}  // namespace deepflight\n")
  file(WRITE ${OUTPUT} "${text}")
  return()
endif()

function(df_embed_headers target function)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${function}.cpp)
  set(paths ${ARGN})
  list(TRANSFORM paths PREPEND ${CMAKE_SOURCE_DIR}/src/)
  string(REPLACE ";" "," headers "${ARGN}")
  add_custom_command(
    OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DSOURCE_DIR=${CMAKE_SOURCE_DIR}/src -DHEADERS=${headers}
            -DFUNCTION=${function} -DOUTPUT=${output} -P ${CMAKE_CURRENT_FUNCTION_LIST_FILE}
    DEPENDS ${paths} ${CMAKE_CURRENT_FUNCTION_LIST_FILE} VERBATIM)
  target_sources(${target} PRIVATE ${output})
endfunction()
