/* Exact scan of packed binary codes: find all codes within the distance of the k-th nearest case, including ties.
 *
 * A code belongs to one case, or to the cases of a posting list. For each query the scan keeps a reach: the least
 * distance within which it has found k cases so far. A kernel marks the codes of a block within the reach; only those
 * are examined one by one, and lower the reach. All queries of a batch scan a block while it is in the processor's
 * cache. Kernels: AVX-512 (VPOPCNTDQ), AVX2 (a table of nibbles: Mula, Kurz, Lemire, 2018), plain C; the caller chooses
 * one that `ynet_scan_best` allows. This file allocates nothing and keeps no state between calls.
 *
 * Codes are stored as rows of words: one row of 64-bit words for each word of a code, or one row of 32-bit words when
 * `code_bytes` is 4. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define IS_X86 1
#include <immintrin.h>
#else
#define IS_X86 0
#endif

#define BLOCK 2048       /* codes: 16 KiB of 64-bit ones, half of a first-level cache */
#define LONG_BLOCK 262144 /* for one query: long sequential reads are fastest */
#define RUN 8            /* groups of 64 codes that AVX-512 first tests together */
#define AHEAD 256        /* codes to prefetch: the hardware prefetcher stops at the end of a page */
#define AROUND 256       /* codes before and after the query's position that estimate its reach */
#define FLAT static inline __attribute__((always_inline))

enum { PLAIN, AVX2, AVX512 };

/* One bit per code of a block: whether it lies within `reach` of the query. Groups of 64 codes only. */
typedef void (*kernel)(const void *codes, int64_t row, int64_t groups, const uint64_t *query, int reach, uint64_t *near);

/* ---- plain ---- */

FLAT int distance_of(const void *codes, int64_t row, int64_t at, int code_bytes, const uint64_t *query) {
    if (code_bytes == 4) return __builtin_popcountll(((const uint32_t *)codes)[at] ^ query[0]);
    const uint64_t *words = codes;
    int distance = 0;
    for (int w = 0; w < code_bytes / 8; w++) distance += __builtin_popcountll(words[w * row + at] ^ query[w]);
    return distance;
}

#define PLAIN_KERNEL(BYTES)                                                                                          \
    static void plain_##BYTES(const void *codes, int64_t row, int64_t groups, const uint64_t *query, int reach,        \
                              uint64_t *near) {                                                                      \
        for (int64_t g = 0; g < groups; g++) {                                                                       \
            uint64_t bits = 0;                                                                                       \
            for (int j = 0; j < 64; j++)                                                                             \
                bits |= (uint64_t)(distance_of(codes, row, 64 * g + j, BYTES, query) <= reach) << j;                   \
            near[g] = bits;                                                                                          \
        }                                                                                                            \
    }
PLAIN_KERNEL(4)
PLAIN_KERNEL(8)
PLAIN_KERNEL(16)
PLAIN_KERNEL(32)

#if IS_X86
/* ---- AVX2 ---- */
#define WITH_AVX2 __attribute__((target("avx2")))

WITH_AVX2 FLAT __m256i byte_counts(__m256i x) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2,
                                           2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble));
    __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
    return _mm256_add_epi8(low, high);
}

/* Distances of four codes, in 64-bit lanes. */
WITH_AVX2 FLAT __m256i four(const uint64_t *codes, int64_t row, int words, const uint64_t *query) {
    __m256i sum = _mm256_setzero_si256();
    for (int w = 0; w < words; w++) {
        __m256i code = _mm256_loadu_si256((const __m256i *)(codes + w * row));
        sum = _mm256_add_epi8(sum, byte_counts(_mm256_xor_si256(code, _mm256_set1_epi64x((long long)query[w]))));
    }
    return _mm256_sad_epu8(sum, _mm256_setzero_si256());
}

/* Distances of eight 32-bit codes, in 32-bit lanes. */
WITH_AVX2 FLAT __m256i eight_short(const uint32_t *codes, uint32_t query) {
    __m256i code = _mm256_loadu_si256((const __m256i *)codes);
    __m256i bytes = byte_counts(_mm256_xor_si256(code, _mm256_set1_epi32((int)query)));
    __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

WITH_AVX2 FLAT void avx2_words(const uint64_t *codes, int64_t row, int64_t groups, int words, const uint64_t *query,
                               int reach, uint64_t *near) {
    const __m256i beyond = _mm256_set1_epi64x(reach + 1);
    for (int64_t g = 0; g < groups; g++, codes += 64) {
        for (int w = 0; w < words; w++)
            for (int line = 0; line < 64; line += 8)
                _mm_prefetch((const char *)(codes + w * row + AHEAD + line), _MM_HINT_T0);
        __m256i least = four(codes, row, words, query);
        for (int v = 1; v < 16; v++) least = _mm256_min_epu16(least, four(codes + 4 * v, row, words, query));
        uint64_t bits = 0;
        if (_mm256_movemask_epi8(_mm256_cmpgt_epi64(beyond, least)))
            for (int v = 0; v < 16; v++) {
                __m256i is_near = _mm256_cmpgt_epi64(beyond, four(codes + 4 * v, row, words, query));
                bits |= (uint64_t)_mm256_movemask_pd(_mm256_castsi256_pd(is_near)) << (4 * v);
            }
        near[g] = bits;
    }
}

WITH_AVX2 static void avx2_4(const void *codes, int64_t row, int64_t groups, const uint64_t *query, int reach,
                             uint64_t *near) {
    (void)row;
    const __m256i beyond = _mm256_set1_epi32(reach + 1);
    const uint32_t *at = codes;
    for (int64_t g = 0; g < groups; g++, at += 64) {
        uint64_t bits = 0;
        for (int v = 0; v < 8; v++) {
            __m256i is_near = _mm256_cmpgt_epi32(beyond, eight_short(at + 8 * v, (uint32_t)query[0]));
            bits |= (uint64_t)_mm256_movemask_ps(_mm256_castsi256_ps(is_near)) << (8 * v);
        }
        near[g] = bits;
    }
}

/* ---- AVX-512 ---- */
#define WITH_AVX512 __attribute__((target("avx512f,avx512vpopcntdq,prefer-vector-width=512")))

WITH_AVX512 FLAT __m512i eight(const uint64_t *codes, int64_t row, int words, const __m512i *query) {
    __m512i sum = _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_loadu_si512(codes), query[0]));
    for (int w = 1; w < words; w++)
        sum = _mm512_add_epi64(sum,
                               _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_loadu_si512(codes + w * row), query[w])));
    return sum;
}

WITH_AVX512 FLAT uint64_t avx512_near(const uint64_t *codes, int64_t row, int words, const __m512i *query,
                                      __m512i most) {
    uint64_t bits = 0;
    for (int v = 0; v < 8; v++)
        bits |= (uint64_t)_mm512_cmple_epu64_mask(eight(codes + 8 * v, row, words, query), most) << (8 * v);
    return bits;
}

WITH_AVX512 FLAT void avx512_words(const uint64_t *codes, int64_t row, int64_t groups, int words, const uint64_t *query,
                                   int reach, uint64_t *near) {
    const __m512i most = _mm512_set1_epi64(reach);
    __m512i wide[4];
    for (int w = 0; w < words; w++) wide[w] = _mm512_set1_epi64((long long)query[w]);
    for (int64_t first = 0; first < groups; first += RUN) {
        int64_t end = first + RUN < groups ? first + RUN : groups;
        __m512i least = _mm512_set1_epi64(UINT16_MAX);
        for (int64_t g = first; g < end; g++)
            for (int v = 0; v < 8; v++)
                least = _mm512_min_epu32(least, eight(codes + 64 * g + 8 * v, row, words, wide));
        int is_any = _mm512_cmple_epu64_mask(least, most);
        for (int64_t g = first; g < end; g++)
            near[g] = is_any ? avx512_near(codes + 64 * g, row, words, wide, most) : 0;
    }
}

WITH_AVX512 static void avx512_4(const void *codes, int64_t row, int64_t groups, const uint64_t *query, int reach,
                                 uint64_t *near) {
    (void)row;
    const __m512i most = _mm512_set1_epi32(reach), wide = _mm512_set1_epi32((int)(uint32_t)query[0]);
    const uint32_t *at = codes;
    for (int64_t g = 0; g < groups; g++, at += 64) {
        uint64_t bits = 0;
        for (int v = 0; v < 4; v++) {
            __m512i distance = _mm512_popcnt_epi32(_mm512_xor_si512(_mm512_loadu_si512(at + 16 * v), wide));
            bits |= (uint64_t)_mm512_cmple_epu32_mask(distance, most) << (16 * v);
        }
        near[g] = bits;
    }
}

#define WORDS_KERNEL(KIND, WITH, BYTES)                                                                              \
    WITH static void KIND##_##BYTES(const void *codes, int64_t row, int64_t groups, const uint64_t *query, int reach,  \
                                    uint64_t *near) {                                                                \
        KIND##_words(codes, row, groups, BYTES / 8, query, reach, near);                                               \
    }
WORDS_KERNEL(avx2, WITH_AVX2, 8)
WORDS_KERNEL(avx2, WITH_AVX2, 16)
WORDS_KERNEL(avx2, WITH_AVX2, 32)
WORDS_KERNEL(avx512, WITH_AVX512, 8)
WORDS_KERNEL(avx512, WITH_AVX512, 16)
WORDS_KERNEL(avx512, WITH_AVX512, 32)
#else
#define avx2_4 plain_4
#define avx2_8 plain_8
#define avx2_16 plain_16
#define avx2_32 plain_32
#define avx512_4 plain_4
#define avx512_8 plain_8
#define avx512_16 plain_16
#define avx512_32 plain_32
#endif

static const kernel KERNELS[3][4] = {{plain_4, plain_8, plain_16, plain_32},
                                     {avx2_4, avx2_8, avx2_16, avx2_32},
                                     {avx512_4, avx512_8, avx512_16, avx512_32}};

/* ---- the scan ---- */

/* Version of the interface; the caller refuses a library of another version. */
int32_t ynet_scan_version(void) { return 3; }

/* The best kernel that this processor can run. */
int32_t ynet_scan_best(void) {
#if IS_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vpopcntdq")) return AVX512;
    if (__builtin_cpu_supports("avx2")) return AVX2;
#endif
    return PLAIN;
}

typedef struct {
    const void *codes;       /* rows of words */
    int64_t n;               /* codes */
    int64_t row;             /* words from the start of one row to that of the next */
    int32_t code_bytes;      /* 4, 8, 16, 32 */
    int32_t kind;            /* PLAIN, AVX2, AVX512 */
    const uint32_t *starts;  /* n + 1: where each code's cases start; NULL: one case per code */
    const uint8_t *live;     /* a bit per case, the lowest first; NULL: all */
    const uint8_t *allowed;  /* a byte per case; NULL: all */
    const uint64_t *queries; /* query_count rows of 4 words, unused ones 0 */
    int64_t query_count;
    int64_t k;               /* cases wanted, at least 1 */
    int64_t capacity;        /* codes that `positions` and `distances` hold for each query */
    int32_t *reach;          /* per query; in: the largest distance wanted; out: that of the k-th case, if nearer */
    int64_t *stored;         /* per query; out: codes written, or -1 when there was no room */
    int64_t *within;         /* per query; room to count in */
    int64_t *cases;          /* per query 257; in: 0; out: cases by distance, 0 beyond the reach */
    int64_t *found;          /* per query 257; in: 0; out: codes by distance, complete up to the reach */
    uint32_t *positions;     /* per query `capacity`; out: codes within reach, ascending */
    uint16_t *distances;     /* the same */
} scan;

#define BINS 257

static int64_t cases_at(const scan *s, int64_t code) {
    int64_t first = s->starts ? s->starts[code] : code, end = s->starts ? s->starts[code + 1] : code + 1, count = 0;
    if (!s->live && !s->allowed) return end - first;
    for (int64_t c = first; c < end; c++)
        count += (!s->live || s->live[c >> 3] >> (c & 7) & 1) && (!s->allowed || s->allowed[c]);
    return count;
}

/* Drop a query's stored codes that lie beyond its reach now. */
static void tidy(const scan *s, int64_t q) {
    uint32_t *positions = s->positions + q * s->capacity;
    uint16_t *distances = s->distances + q * s->capacity;
    int64_t kept = 0;
    if (s->stored[q] < 0) return;
    for (int64_t i = 0; i < s->stored[q]; i++)
        if (distances[i] <= s->reach[q]) {
            positions[kept] = positions[i];
            distances[kept++] = distances[i];
        }
    s->stored[q] = kept;
}

static void store(const scan *s, int64_t q, int64_t code, int distance) {
    if (s->stored[q] == s->capacity) {
        tidy(s, q);
        if (s->stored[q] > s->capacity - s->capacity / 4 - 1) s->stored[q] = -1; /* the next pass would free too little */
    }
    if (s->stored[q] < 0) return;
    s->positions[q * s->capacity + s->stored[q]] = (uint32_t)code;
    s->distances[q * s->capacity + s->stored[q]++] = (uint16_t)distance;
}

static void look(const scan *s, int64_t q, int64_t code) {
    int distance = distance_of(s->codes, s->row, code, s->code_bytes, s->queries + 4 * q);
    if (distance > s->reach[q]) return;
    int64_t count = cases_at(s, code), *cases = s->cases + q * BINS;
    if (!count) return;
    store(s, q, code, distance);
    s->found[q * BINS + distance]++;
    cases[distance] += count;
    s->within[q] += count;
    while (s->within[q] - cases[s->reach[q]] >= s->k) s->within[q] -= cases[s->reach[q]--];
}

/* Lower a query's reach before the scan. The k-th nearest of a subset is no nearer than the k-th nearest of all codes.
 * Sorted codes around the query's own position are near it, so this bound is tight and few codes are examined later. */
static void foresee(const scan *s, int64_t q) {
    const uint64_t *query = s->queries + 4 * q;
    int64_t low = 0, high = s->n, cases[BINS] = {0}, within = 0;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        uint64_t first = s->code_bytes == 4 ? ((const uint32_t *)s->codes)[middle] : ((const uint64_t *)s->codes)[middle];
        if (first < query[0]) low = middle + 1;
        else high = middle;
    }
    low = low > AROUND ? low - AROUND : 0;
    high = low + 2 * AROUND < s->n ? low + 2 * AROUND : s->n;
    for (int64_t code = low; code < high; code++) {
        int distance = distance_of(s->codes, s->row, code, s->code_bytes, query);
        if (distance <= s->reach[q]) cases[distance] += cases_at(s, code);
    }
    for (int reach = 0; reach < s->reach[q]; reach++)
        if ((within += cases[reach]) >= s->k) s->reach[q] = reach;
}

void ynet_scan(const scan *s) {
    kernel near_of = KERNELS[s->kind][s->code_bytes == 4 ? 0 : s->code_bytes == 8 ? 1 : s->code_bytes == 16 ? 2 : 3];
    int64_t word = s->code_bytes == 4 ? 4 : 8, at = 0;
    int64_t most = s->query_count == 1 ? LONG_BLOCK : BLOCK;
    uint64_t near[LONG_BLOCK / 64];
    memset(s->stored, 0, sizeof(int64_t) * (size_t)s->query_count);
    memset(s->within, 0, sizeof(int64_t) * (size_t)s->query_count);
    for (int64_t q = 0; q < s->query_count && s->n > 64 * AROUND; q++) foresee(s, q);
    /* Blocks start at a cache line. */
    while (at < s->n && ((uintptr_t)s->codes + (uintptr_t)(at * word)) % 64) at++;
    for (int64_t q = 0; q < s->query_count; q++)
        for (int64_t code = 0; code < at; code++) look(s, q, code);
    /* The first block is small: the reach may still exclude little. */
    for (int64_t size = 64; s->n - at >= 64; at += size, size = size < most ? 2 * size : most) {
        if (size > s->n - at) size = (s->n - at) / 64 * 64;
        const char *block = (const char *)s->codes + at * word;
        for (int64_t q = 0; q < s->query_count; q++) {
            near_of(block, s->row, size / 64, s->queries + 4 * q, s->reach[q], near);
            for (int64_t g = 0; g < size / 64; g++)
                for (uint64_t bits = near[g]; bits; bits &= bits - 1)
                    look(s, q, at + 64 * g + __builtin_ctzll(bits));
        }
    }
    for (int64_t q = 0; q < s->query_count; q++) {
        for (int64_t code = at; code < s->n; code++) look(s, q, code);
        tidy(s, q);
        memset(s->cases + q * BINS + s->reach[q] + 1, 0, sizeof(int64_t) * (size_t)(BINS - 1 - s->reach[q]));
    }
}

#include "topk.c"
