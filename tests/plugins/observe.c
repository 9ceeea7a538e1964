/* SPDX-License-Identifier: 0BSD
 *
 * Watches: counts the events of each session and logs the summary when it closes. Decides nothing.
 * Without memory for a session it stays silent about it. The option `quiet: "yes"` logs nothing
 * (what does watching cost?).
 */
#include "tests/plugins/words.h"

struct observer {
	const struct ringpost_host *host;
	int quiet;
};

struct seen {
	uint64_t bytes;
	unsigned events[EVENT_COUNT];
};

static int open_it(const struct ringpost_host *host, const struct ringpost_option *options,
	size_t option_count, void **self, char *error, size_t error_size)
{
	struct observer *o = calloc(1, sizeof(*o));

	if (!o) {
		snprintf(error, error_size, "no memory");
		return -1;
	}
	o->host = host;
	for (size_t i = 0; i < option_count; i++)
		o->quiet |= strcmp(options[i].name, "quiet") == 0;
	*self = o;
	return 0;
}

static void summary(const struct observer *o, const struct ringpost_event *ev, const struct seen *s)
{
	char line[256];
	int n = snprintf(line, sizeof(line),
		"session %016llx from %.*s:", (unsigned long long)ev->session, (int)ev->client.size,
		ev->client.data);

	for (uint32_t i = 0; i < EVENT_COUNT; i++)
		if (s->events[i])
			n += snprintf(line + n, sizeof(line) - (size_t)n, " %s=%u", event_names[i],
				s->events[i]);
	snprintf(line + n, sizeof(line) - (size_t)n, " bytes=%llu", (unsigned long long)s->bytes);
	o->host->log(o->host->handle, RINGPOST_LOG_INFO, line);
}

static uint32_t event(void *self, const struct ringpost_event *ev, struct ringpost_answer *answer)
{
	const struct observer *o = self;
	struct seen *s = *ev->user;

	if (!s)
		s = *ev->user = calloc(1, sizeof(*s));
	if (!s || ev->kind >= EVENT_COUNT)
		return RINGPOST_PASS;
	s->events[ev->kind]++;
	if (ev->kind == RINGPOST_TRANSACTION)
		s->bytes += ev->bytes;
	if (ev->kind != RINGPOST_CLOSE)
		return RINGPOST_PASS;
	if (!o->quiet)
		summary(o, ev, s);
	free(s);
	*ev->user = NULL;
	return RINGPOST_PASS;
}

const struct ringpost_plugin ringpost_plugin = {RINGPOST_ABI, sizeof(struct ringpost_plugin),
	"observe", 0, RINGPOST_ON_ENVELOPE, open_it, free, event};
