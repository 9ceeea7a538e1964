/* SPDX-License-Identifier: 0BSD
 *
 * Plugins that must not be taken: one for each BAD_..., built as bad-abi.so, bad-open.so and so on.
 * Each is right in all else. BAD_larger is the exception: a descriptor of a later version, good.
 */
#include "tests/plugins/words.h"

static int open_it(const struct ringpost_host *host, const struct ringpost_option *options,
	size_t option_count, void **self, char *error, size_t error_size)
{
#ifdef BAD_open
	snprintf(error, error_size, "option `key` is missing\n\x80");
	return -1;
#elif defined(BAD_mute)
	return -1;
#else
	return 0;
#endif
}

static uint32_t event(void *self, const struct ringpost_event *ev, struct ringpost_answer *answer)
{
	return RINGPOST_PASS;
}

#ifdef BAD_abi
#define ABI (RINGPOST_ABI + 1)
#else
#define ABI RINGPOST_ABI
#endif

#if defined(BAD_size)
#define SIZE (sizeof(struct ringpost_plugin) - 1)
#elif defined(BAD_larger)
#define SIZE (sizeof(struct ringpost_plugin) + 8)
#else
#define SIZE sizeof(struct ringpost_plugin)
#endif

#ifdef BAD_name
#define NAME "bad name"
#else
#define NAME "bad"
#endif

#ifdef BAD_flags
#define FLAGS (RINGPOST_MAY_BLOCK << 1)
#else
#define FLAGS 0
#endif

#if defined(BAD_unknown)
#define EVENTS (RINGPOST_ON_ALL | 1u << 12)
#elif defined(BAD_none)
#define EVENTS 0
#else
#define EVENTS RINGPOST_ON(RINGPOST_MAIL)
#endif

#ifdef BAD_event
#define EVENT NULL
#else
#define EVENT event
#endif

#ifdef BAD_symbol
#define DESCRIPTOR somebody_elses_plugin
extern const struct ringpost_plugin somebody_elses_plugin;
#else
#define DESCRIPTOR ringpost_plugin
#endif

#ifdef BAD_link
extern void nobody_defines_this(void *self);
#define CLOSE nobody_defines_this
#else
#define CLOSE NULL
#endif

const struct ringpost_plugin DESCRIPTOR = {
	ABI, (uint32_t)SIZE, NAME, FLAGS, EVENTS, open_it, CLOSE, EVENT};

/* Used by all but one. */
extern uint32_t (*const bad_uses)(void *, const struct ringpost_event *, struct ringpost_answer *);
uint32_t (*const bad_uses)(void *, const struct ringpost_event *, struct ringpost_answer *) = event;
