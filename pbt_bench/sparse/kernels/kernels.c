/* The compiled kernels, once for every number type and instruction set: names end in both, and `best_set` tells the
   last set that this processor has. __init__.py calls them; this file includes itself. */

#ifndef SET

#include <stdint.h>
#include <string.h>

#define PARALLEL _Pragma("omp parallel for num_threads(threads) schedule(static)")
#include "groups.h"
#include "sparse.h"

#define PASTE_(a, b, c) a##_##b##_##c
#define PASTE(a, b, c) PASTE_(a, b, c)
#define FUNCTION(name) PASTE(name, T, SET)

#define SET plain
#define WIDTH 16
#include "kernels.c"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define SET avx2
#define WIDTH 32
#include "kernels.c"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f")
#define SET avx512
#define WIDTH 64
#include "kernels.c"
#pragma GCC pop_options

const char *best_set(void) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return "avx512";
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? "avx2" : "plain";
}
#else
const char *best_set(void) { return "plain"; }
#endif

#elif !defined(T)

#define VECTOR FUNCTION(vector)
#define LANES (WIDTH / (long)sizeof(T))

#define T float
#include "kernels.c"
#undef T
#define T double
#include "kernels.c"
#undef T

#undef VECTOR
#undef LANES
#undef SET
#undef WIDTH

#else

typedef T VECTOR __attribute__((vector_size(WIDTH), aligned(sizeof(T)), may_alias));
#include "groups.h"
#include "sparse.h"

#endif
