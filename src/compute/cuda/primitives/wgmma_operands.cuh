// Accumulators of a warpgroup product as operands of inline assembly, which cannot be written as a
// loop: for n columns DF_Rn names registers 0 .. n / 2 - 1 of the template and DF_On binds them to
// float d[n / 2]. Each width builds on the one before.
#pragma once

// clang-format off
#define DF_R8 "%0, %1, %2, %3"
#define DF_O8 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define DF_R16 DF_R8 ", %4, %5, %6, %7"
#define DF_O16 DF_O8, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define DF_R24 DF_R16 ", %8, %9, %10, %11"
#define DF_O24 DF_O16, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define DF_R32 DF_R24 ", %12, %13, %14, %15"
#define DF_O32 DF_O24, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define DF_R40 DF_R32 ", %16, %17, %18, %19"
#define DF_O40 DF_O32, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define DF_R48 DF_R40 ", %20, %21, %22, %23"
#define DF_O48 DF_O40, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define DF_R56 DF_R48 ", %24, %25, %26, %27"
#define DF_O56 DF_O48, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define DF_R64 DF_R56 ", %28, %29, %30, %31"
#define DF_O64 DF_O56, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define DF_R72 DF_R64 ", %32, %33, %34, %35"
#define DF_O72 DF_O64, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define DF_R80 DF_R72 ", %36, %37, %38, %39"
#define DF_O80 DF_O72, "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define DF_R88 DF_R80 ", %40, %41, %42, %43"
#define DF_O88 DF_O80, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define DF_R96 DF_R88 ", %44, %45, %46, %47"
#define DF_O96 DF_O88, "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define DF_R104 DF_R96 ", %48, %49, %50, %51"
#define DF_O104 DF_O96, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define DF_R112 DF_R104 ", %52, %53, %54, %55"
#define DF_O112 DF_O104, "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define DF_R120 DF_R112 ", %56, %57, %58, %59"
#define DF_O120 DF_O112, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define DF_R128 DF_R120 ", %60, %61, %62, %63"
#define DF_O128 DF_O120, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define DF_R136 DF_R128 ", %64, %65, %66, %67"
#define DF_O136 DF_O128, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define DF_R144 DF_R136 ", %68, %69, %70, %71"
#define DF_O144 DF_O136, "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define DF_R152 DF_R144 ", %72, %73, %74, %75"
#define DF_O152 DF_O144, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define DF_R160 DF_R152 ", %76, %77, %78, %79"
#define DF_O160 DF_O152, "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define DF_R168 DF_R160 ", %80, %81, %82, %83"
#define DF_O168 DF_O160, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83])
#define DF_R176 DF_R168 ", %84, %85, %86, %87"
#define DF_O176 DF_O168, "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define DF_R184 DF_R176 ", %88, %89, %90, %91"
#define DF_O184 DF_O176, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define DF_R192 DF_R184 ", %92, %93, %94, %95"
#define DF_O192 DF_O184, "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define DF_R200 DF_R192 ", %96, %97, %98, %99"
#define DF_O200 DF_O192, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99])
#define DF_R208 DF_R200 ", %100, %101, %102, %103"
#define DF_O208 DF_O200, "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define DF_R216 DF_R208 ", %104, %105, %106, %107"
#define DF_O216 DF_O208, "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107])
#define DF_R224 DF_R216 ", %108, %109, %110, %111"
#define DF_O224 DF_O216, "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define DF_R232 DF_R224 ", %112, %113, %114, %115"
#define DF_O232 DF_O224, "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115])
#define DF_R240 DF_R232 ", %116, %117, %118, %119"
#define DF_O240 DF_O232, "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define DF_R248 DF_R240 ", %120, %121, %122, %123"
#define DF_O248 DF_O240, "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123])
#define DF_R256 DF_R248 ", %124, %125, %126, %127"
#define DF_O256 DF_O248, "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
// clang-format on
