/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The one header every room may include: spans, assertions, small arithmetic.
 * Any thread; nothing here allocates, blocks or keeps state.
 */
#ifndef RING_BASE_H
#define RING_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A run of bytes somebody else owns. Never NUL-terminated, may hold any octet. */
struct span {
	const uint8_t *p;
	size_t n;
};

#define SPAN_NONE ((struct span){NULL, 0})
#define SPAN_LIT(s) ((struct span){(const uint8_t *)("" s), sizeof(s) - 1})

static inline struct span span_of(const void *p, size_t n)
{
	return (struct span){(const uint8_t *)p, n};
}

static inline struct span span_str(const char *s)
{
	return s ? span_of(s, strlen(s)) : SPAN_NONE;
}

static inline struct span span_drop(struct span s, size_t n)
{
	return (struct span){s.p + n, s.n - n};
}

static inline uint8_t ascii_lower(uint8_t c)
{
	return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c;
}

/* ASCII case only: SMTP verbs, keywords and domains (RFC 5321 2.4). */
static inline bool span_ieq(struct span a, struct span b)
{
	if (a.n != b.n)
		return false;
	for (size_t i = 0; i < a.n; i++)
		if (ascii_lower(a.p[i]) != ascii_lower(b.p[i]))
			return false;
	return true;
}

static inline bool span_eq(struct span a, struct span b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* A programming error of ours: say where and stop. On in every build. */
#define ASSERT(x) \
	(__builtin_expect(!!(x), 1) ? (void)0 : base_assert_failed(#x, __FILE__, __LINE__))

__attribute__((noreturn, cold)) static inline void base_assert_failed(
	const char *what, const char *file, int line)
{
	fprintf(stderr, "ringpost: assertion failed: %s (%s:%d)\n", what, file, line);
	abort();
}

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define MIN_OF(a, b) ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b) ((a) > (b) ? (a) : (b))

#endif
