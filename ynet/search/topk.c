/* Select the k first cases of a scan by the total order (ynet/search/ranking.py); included by scan.c.
 *
 * Compute the token of each case within reach (AES-128 of its number, by the processor's AES instructions) and from it
 * the tie key; keep the k first in a heap. A tie group of a trained network holds tens of thousands of cases: none of
 * them is written to memory. ynet_client/gallery/case_tokens.py computes the same tokens; tests compare the two. */

#define BATCHED 64 /* tokens per step: AES works on eight at once */

typedef struct {
    int64_t query_count;
    int64_t capacity;          /* cases wanted for each query, at least 1 */
    const int64_t *ends;       /* per query: where its codes end in the next two */
    const uint32_t *positions; /* codes within reach */
    const uint16_t *distances;
    const uint32_t *starts;    /* as in `scan` */
    const uint8_t *live;
    const uint8_t *allowed;
    const uint32_t *ids;       /* per case */
    const uint64_t *digests;   /* per query: q0 and q1 of the total order */
    const uint8_t *key;        /* 16 bytes */
    int64_t *counts;           /* per query; out: cases in `first` */
    struct first *first;       /* per query `capacity`; out: the first cases, in order */
} ranking;

typedef struct first {
    uint64_t token[2];
    uint64_t key;
    uint32_t distance;
    uint32_t id;
} first;

FLAT uint64_t mixed(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

FLAT int is_before(const first *a, const first *b) {
    if (a->distance != b->distance) return a->distance < b->distance;
    if (a->key != b->key) return a->key < b->key;
    return memcmp(a->token, b->token, 16) < 0;
}

/* The heap's root is the last of the kept cases. */
static void sink(first *heap, int64_t count, int64_t at, first one) {
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && is_before(&heap[child], &heap[child + 1])) child++;
        if (!is_before(&one, &heap[child])) break;
        heap[at] = heap[child];
    }
    heap[at] = one;
}

static int64_t keep(first *heap, int64_t count, int64_t k, first one) {
    if (count == k) {
        if (is_before(&one, &heap[0])) sink(heap, count, 0, one);
        return count;
    }
    int64_t at = count;
    for (int64_t parent; at && is_before(&heap[parent = (at - 1) / 2], &one); at = parent) heap[at] = heap[parent];
    heap[at] = one;
    return count + 1;
}

#if IS_X86
#include <cpuid.h>
#define WITH_AES __attribute__((target("aes,sse4.1")))

/* Whether the processor has AES. */
int32_t ynet_rank_can(void) {
    unsigned a, b, c = 0, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c >> 25 & 1) && (c >> 19 & 1);
}

#define EXPAND(I, CONSTANT)                                                                                            \
    do {                                                                                                               \
        __m128i last = schedule[I - 1], word = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(last, CONSTANT), 0xFF);     \
        last = _mm_xor_si128(last, _mm_slli_si128(last, 4));                                                           \
        last = _mm_xor_si128(last, _mm_slli_si128(last, 8));                                                           \
        schedule[I] = _mm_xor_si128(last, word);                                                                       \
    } while (0)

/* FIPS 197, 5.2. */
WITH_AES static void expand(const uint8_t *key, __m128i *schedule) {
    schedule[0] = _mm_loadu_si128((const __m128i *)key);
    EXPAND(1, 0x01);
    EXPAND(2, 0x02);
    EXPAND(3, 0x04);
    EXPAND(4, 0x08);
    EXPAND(5, 0x10);
    EXPAND(6, 0x20);
    EXPAND(7, 0x40);
    EXPAND(8, 0x80);
    EXPAND(9, 0x1B);
    EXPAND(10, 0x36);
}

WITH_AES static void encipher(const __m128i *schedule, const uint32_t *ids, int64_t count, uint64_t (*tokens)[2]) {
    for (int64_t at = 0; at < count; at += 8) {
        __m128i block[8];
        for (int j = 0; j < 8; j++) block[j] = _mm_xor_si128(_mm_cvtsi32_si128((int)ids[at + j]), schedule[0]);
        for (int round = 1; round < 10; round++)
            for (int j = 0; j < 8; j++) block[j] = _mm_aesenc_si128(block[j], schedule[round]);
        for (int j = 0; j < 8; j++)
            _mm_storeu_si128((__m128i *)tokens[at + j], _mm_aesenclast_si128(block[j], schedule[10]));
    }
}

/* One query's cases without a token yet, and the kept cases. */
typedef struct {
    first *heap;
    int64_t count, k, waiting;
    uint64_t q0, q1;
    uint32_t ids[BATCHED], distances[BATCHED];
} query_heap;

static void take(query_heap *h, const __m128i *schedule) {
    uint64_t tokens[BATCHED][2];
    encipher(schedule, h->ids, h->waiting, tokens);
    for (int64_t j = 0; j < h->waiting; j++) {
        uint64_t key = mixed(mixed(tokens[j][0] ^ h->q0) ^ tokens[j][1] ^ h->q1);
        const first *last = h->heap;
        uint32_t distance = h->distances[j];
        if (h->count == h->k && (distance > last->distance || (distance == last->distance && key > last->key))) continue;
        first one = {{tokens[j][0], tokens[j][1]}, key, distance, h->ids[j]};
        h->count = keep(h->heap, h->count, h->k, one);
    }
    h->waiting = 0;
}

static void rank_one(const ranking *r, const __m128i *schedule, int64_t q) {
    query_heap h = {.heap = r->first + q * r->capacity, .k = r->capacity, .q0 = r->digests[2 * q], .q1 = r->digests[2 * q + 1]};
    for (int64_t i = q ? r->ends[q - 1] : 0; i < r->ends[q]; i++) {
        int64_t code = r->positions[i], end = r->starts ? r->starts[code + 1] : code + 1;
        for (int64_t number = r->starts ? r->starts[code] : code; number < end; number++) {
            if (r->live && !(r->live[number >> 3] >> (number & 7) & 1)) continue;
            if (r->allowed && !r->allowed[number]) continue;
            if (h.count == h.k && r->distances[i] > h.heap[0].distance) continue;
            h.ids[h.waiting] = r->ids[number];
            h.distances[h.waiting++] = r->distances[i];
            if (h.waiting == BATCHED) take(&h, schedule);
        }
    }
    take(&h, schedule);
    r->counts[q] = h.count;
    for (int64_t left = h.count - 1; left > 0; left--) { /* the last one to its place, then the heap of the rest */
        first one = h.heap[left];
        h.heap[left] = h.heap[0];
        sink(h.heap, left, 0, one);
    }
}

void ynet_rank(const ranking *r) {
    __m128i schedule[11];
    expand(r->key, schedule);
    for (int64_t q = 0; q < r->query_count; q++) rank_one(r, schedule, q);
}
#else
int32_t ynet_rank_can(void) { return 0; }
void ynet_rank(const ranking *r) { (void)r; }
#endif
