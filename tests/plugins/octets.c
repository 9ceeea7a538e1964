/* SPDX-License-Identifier: 0BSD
 *
 * Reads messages: sums up all octets of each one, at BODY, and passes it (what does looking at
 * messages cost?). No options. Counts (in the record `hook-counters`): messages, octets.
 */
#include "tests/plugins/words.h"

struct reader {
	const struct ringpost_host *host;
	int messages, octets;
};

static int open_it(const struct ringpost_host *host, const struct ringpost_option *options,
	size_t option_count, void **self, char *error, size_t error_size)
{
	struct reader *r = calloc(1, sizeof(*r));

	if (!r || option_count > 0) {
		snprintf(error, error_size, "%s", r ? "octets has no options" : "no memory");
		free(r);
		return -1;
	}
	r->host = host;
	r->messages = host->counter(host->handle, "messages");
	r->octets = host->counter(host->handle, "octets");
	*self = r;
	return 0;
}

/* In *user, as nothing else is kept for a session. */
static uintptr_t sum_of(struct ringpost_span data, uintptr_t sum)
{
	for (size_t i = 0; i < data.size; i++)
		sum += (unsigned char)data.data[i];
	return sum;
}

static uint32_t event(void *self, const struct ringpost_event *ev, struct ringpost_answer *answer)
{
	const struct reader *r = self;

	if (ev->kind == RINGPOST_BODY) {
		*ev->user = (void *)sum_of(ev->data, (uintptr_t)*ev->user);
		r->host->count(r->host->handle, r->octets, ev->data.size);
	} else if (ev->kind == RINGPOST_END_OF_DATA) {
		r->host->count(r->host->handle, r->messages, 1);
	}
	return RINGPOST_PASS;
}

const struct ringpost_plugin ringpost_plugin = {RINGPOST_ABI, sizeof(struct ringpost_plugin),
	"octets", 0, RINGPOST_ON(RINGPOST_BODY) | RINGPOST_ON(RINGPOST_END_OF_DATA), open_it, free,
	event};
