/* SPDX-License-Identifier: 0BSD
 *
 * What the test plugins share: names of events and verdicts, looking at options and spans.
 */
#ifndef TESTS_PLUGINS_WORDS_H
#define TESTS_PLUGINS_WORDS_H

#include <ringpost.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_COUNT 12

static const char *const event_names[EVENT_COUNT] = {"connect", "ehlo", "auth", "mail", "rcpt",
	"data", "end-of-data", "starttls", "reset", "transaction", "close", "body"};

static inline int is(struct ringpost_span s, const char *word)
{
	return word != NULL && s.size == strlen(word) && memcmp(s.data, word, s.size) == 0;
}

/* "mail,rcpt" as a mask; 0 when a word is none. */
static inline uint32_t events_of(const char *list)
{
	uint32_t mask = 0;

	while (*list) {
		size_t n = strcspn(list, ",");
		uint32_t kind = 0;

		while (kind < EVENT_COUNT &&
			(strlen(event_names[kind]) != n || memcmp(event_names[kind], list, n) != 0))
			kind++;
		if (kind == EVENT_COUNT)
			return 0;
		mask |= RINGPOST_ON(kind);
		list += n + (list[n] == ',');
	}
	return mask;
}

#endif
