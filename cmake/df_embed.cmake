# df_embed_files(<target> <function> <files...>): puts text files (paths below src/) into <target> at
# build time, as `std::span<const deepflight::EmbeddedFile> deepflight::<function>()`, so that the
# program has them with no file at hand. Run as a script it does the work.
if(CMAKE_SCRIPT_MODE_FILE)
  set(text "#include <span>\n\n#include \"base/embedded_file.h\"\n\n")
  string(APPEND text "namespace deepflight {\nnamespace {\nconstexpr EmbeddedFile kFiles[] = {\n")
  string(REPLACE "," ";" FILES "${FILES}")
  foreach(file ${FILES})
    file(READ ${SOURCE_DIR}/${file} body)
    string(APPEND text "{\"${file}\", R\"embedded(${body})embedded\"},\n")
  endforeach()
  string(APPEND text "};\n}  // namespace\nstd::span<const EmbeddedFile> ${FUNCTION}() {"
         " return kFiles; }\n}  // namespace deepflight\n")
  file(WRITE ${OUTPUT} "${text}")
  return()
endif()

function(df_embed_files target function)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${function}.cpp)
  set(paths ${ARGN})
  list(TRANSFORM paths PREPEND ${CMAKE_SOURCE_DIR}/src/)
  string(REPLACE ";" "," files "${ARGN}")
  add_custom_command(
    OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DSOURCE_DIR=${CMAKE_SOURCE_DIR}/src -DFILES=${files}
            -DFUNCTION=${function} -DOUTPUT=${output} -P ${CMAKE_CURRENT_FUNCTION_LIST_FILE}
    DEPENDS ${paths} ${CMAKE_CURRENT_FUNCTION_LIST_FILE} VERBATIM)
  target_sources(${target} PRIVATE ${output})
endfunction()
