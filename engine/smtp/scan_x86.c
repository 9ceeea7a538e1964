/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Skipping 64 octets at a time: AVX2 where the CPU has it, SSE2 (every x86-64) where not.
 *
 * One bit per octet: C (CR), L (LF), Z (NUL), D (dot). A dot matters only behind one of the other
 * three and before one of them: D & (E << 1) & (E >> 1). (Normalizing doubles a dot behind a bare
 * LF, but it does not skip blocks with one.) A block in which no dot matters is skipped; what it
 * adds to the counters is in the same masks.
 */
#include "engine/smtp/scan_priv.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TOP (1ull << 63)

struct masks {
	uint64_t c, l, z, d;
};

__attribute__((target("avx2"), always_inline)) static inline uint64_t equal_avx2(
	__m256i a, __m256i b, char c)
{
	__m256i v = _mm256_set1_epi8(c);
	uint32_t lo = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, v));
	uint32_t hi = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(b, v));

	return (uint64_t)hi << 32 | lo;
}

__attribute__((target("avx2"), always_inline)) static inline struct masks masks_avx2(
	const uint8_t *p)
{
	__m256i a = _mm256_loadu_si256((const __m256i *)(const void *)p);
	__m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(p + 32));

	return (struct masks){equal_avx2(a, b, '\r'), equal_avx2(a, b, '\n'),
		equal_avx2(a, b, '\0'), equal_avx2(a, b, '.')};
}

__attribute__((always_inline)) static inline uint64_t equal_sse2(const __m128i v[4], char c)
{
	__m128i w = _mm_set1_epi8(c);
	uint64_t m = 0;

	for (int k = 3; k >= 0; k--)
		m = m << 16 | (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v[k], w));
	return m;
}

__attribute__((always_inline)) static inline struct masks masks_sse2(const uint8_t *p)
{
	__m128i v[4];

	for (int k = 0; k < 4; k++)
		v[k] = _mm_loadu_si128((const __m128i *)(const void *)(p + 16 * k));
	return (struct masks){
		equal_sse2(v, '\r'), equal_sse2(v, '\n'), equal_sse2(v, '\0'), equal_sse2(v, '.')};
}

/* What one block leaves to the next. */
struct carry {
	uint64_t end;	/* 1: the last octet was a CR, an LF or a NUL at a line start */
	uint64_t cr;	/* 1: it was a CR */
	uint64_t exact; /* 1: if it was an LF, a CR came before it */
};

static inline struct carry carry_of(uint8_t state)
{
	return (struct carry){state != SCAN_ST_TEXT, state == SCAN_ST_CR, state == SCAN_ST_LINE};
}

/* Not called when the last octet is a NUL. */
static inline uint8_t state_of(struct carry k)
{
	if (k.cr)
		return SCAN_ST_CR;
	if (k.end)
		return k.exact ? SCAN_ST_LINE : SCAN_ST_LF;
	return SCAN_ST_TEXT;
}

__attribute__((noinline)) static void count_block(
	struct scan *s, const struct masks *m, uint64_t after_cr)
{
	s->bare_lf += (uint64_t)__builtin_popcountll(m->l & ~after_cr);
	s->bare_cr += (uint64_t)__builtin_popcountll(after_cr & ~m->l);
	s->nul += (uint64_t)__builtin_popcountll(m->z);
}

/* A bare LF was rewritten right before p[i], and its dot is to be doubled. */
static inline bool new_dot(
	const struct scan *s, enum scan_mode mode, const uint8_t *p, size_t i, size_t n)
{
	return mode == SCAN_NORMALIZE && s->state == SCAN_ST_LF && i < n && p[i] == '.';
}

/* One body for both: `masks_of` is inlined. A block ending in a NUL is left to the table, which
 * knows whether a line end came before it. */
#define DEFINE_SKIP(name, masks_of, attributes)                                              \
	attributes size_t name(                                                              \
		struct scan *s, enum scan_mode mode, const uint8_t *p, size_t i, size_t n)   \
	{                                                                                    \
		uint64_t strict = mode == SCAN_REJECT || mode == SCAN_NORMALIZE ? ~0ull : 0; \
		struct carry k = carry_of(s->state);                                         \
		size_t start = i;                                                            \
                                                                                             \
		if (s->state > SCAN_ST_NULS || new_dot(s, mode, p, i, n))                    \
			return i;                                                            \
		for (; n - i >= 64; i += 64) {                                               \
			struct masks m = masks_of(p + i);                                    \
			uint64_t ends = m.c | m.l | m.z;                                     \
			uint64_t after_cr = m.c << 1 | k.cr;                                 \
			uint64_t bare = after_cr ^ m.l;                                      \
			uint64_t dots = m.d & (ends << 1 | k.end) & (ends >> 1 | TOP);       \
                                                                                             \
			if (UNLIKELY((dots | (bare & strict) | (m.z & TOP)) != 0))           \
				break;                                                       \
			if (UNLIKELY((bare | m.z) != 0))                                     \
				count_block(s, &m, after_cr);                                \
			k = (struct carry){ends >> 63, m.c >> 63, after_cr >> 63};           \
		}                                                                            \
		if (i != start)                                                              \
			s->state = state_of(k);                                              \
		return i;                                                                    \
	}

DEFINE_SKIP(scan_skip_avx2, masks_avx2, __attribute__((target("avx2"))))
DEFINE_SKIP(scan_skip_sse2, masks_sse2, )

bool scan_avx2_usable(void)
{
	return __builtin_cpu_supports("avx2");
}
#endif
