/*
 * What the registers of a core can do at most: loops of multiply-accumulates that touch no memory.
 *
 * Each function of the form register_peak_PRECISION(steps) does `steps` times ACCUMULATORS vector instructions, none of
 * which waits for another of the same step, and returns how many multiply-accumulates that were. A precision that the
 * CPU has no instruction for has no function. bench/register_peak.py compiles this file for the CPU at hand, calls the
 * functions on several threads and takes the time.
 *
 * The sums leave through `sink`, so that a compiler may not drop the loop; that happens once a call.
 */
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* As many as instructions are in flight: latency times instructions a cycle, at most 8 x 2 on today's cores. With the
   two factors they must fit into the registers, 32 with AVX-512 and 16 without. */
#if defined(__AVX512F__)
#define ACCUMULATORS 20
#else
#define ACCUMULATORS 12
#endif

static volatile int8_t sink;

/* STEP(sum) adds to a sum of type VECTOR; the sums start different so that none is computed for another. */
#define DEFINE_PEAK(NAME, VECTOR, START, STEP, MACS_PER_VECTOR)      \
    int64_t NAME(int64_t steps) {                                     \
        VECTOR sums[ACCUMULATORS];                                    \
        _Pragma("GCC unroll 32") for (int i = 0; i < ACCUMULATORS; ++i) sums[i] = START(i); \
        for (int64_t step = 0; step < steps; ++step) {                \
            _Pragma("GCC unroll 32") for (int i = 0; i < ACCUMULATORS; ++i) sums[i] = STEP(sums[i]); \
        }                                                             \
        _Pragma("GCC unroll 32") for (int i = 0; i < ACCUMULATORS; ++i) sink = ((const int8_t *)&sums[i])[0]; \
        return steps * ACCUMULATORS * (MACS_PER_VECTOR);              \
    }

#if defined(__AVX512F__)
#define START_FP32(i) _mm512_set1_ps((float)(i))
#define STEP_FP32(sum) _mm512_fmadd_ps(_mm512_set1_ps(0.5f), _mm512_set1_ps(1e-6f), sum)
DEFINE_PEAK(register_peak_fp32, __m512, START_FP32, STEP_FP32, 16)
#elif defined(__AVX2__) && defined(__FMA__)
#define START_FP32(i) _mm256_set1_ps((float)(i))
#define STEP_FP32(sum) _mm256_fmadd_ps(_mm256_set1_ps(0.5f), _mm256_set1_ps(1e-6f), sum)
DEFINE_PEAK(register_peak_fp32, __m256, START_FP32, STEP_FP32, 8)
#endif

#if defined(__AVX512BF16__)
/* Every half of the factors is 0x3f80, 1.0 in bf16. */
#define START_BF16(i) _mm512_set1_ps((float)(i))
#define STEP_BF16(sum) _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi16(0x3f80), (__m512bh)_mm512_set1_epi16(0x3f80))
DEFINE_PEAK(register_peak_bf16, __m512, START_BF16, STEP_BF16, 32)
#endif

#if defined(__AVX512VNNI__)
/* Written out: of the intrinsic, GCC 12 moves the sums to memory and back. */
static inline __m512i dot_int8(__m512i sum) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(_mm512_set1_epi8(3)), "v"(_mm512_set1_epi8(5)));
    return sum;
}
#define START_INT8(i) _mm512_set1_epi32(i)
#define STEP_INT8(sum) dot_int8(sum)
DEFINE_PEAK(register_peak_int8, __m512i, START_INT8, STEP_INT8, 64)
#elif defined(__AVXVNNI__)
#define START_INT8(i) _mm256_set1_epi32(i)
#define STEP_INT8(sum) _mm256_dpbusd_avx_epi32(sum, _mm256_set1_epi8(3), _mm256_set1_epi8(5))
DEFINE_PEAK(register_peak_int8, __m256i, START_INT8, STEP_INT8, 32)
#endif
