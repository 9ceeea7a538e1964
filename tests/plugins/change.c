/* SPDX-License-Identifier: 0BSD
 *
 * Changes what passes. Options:
 *
 *     at                the events to do it at: "mail" or "end-of-data"
 *     later             "yes": by suspend() and answer(), not by what event() returns
 *     odd               a change that is none: "kind", or "null" (a span without octets)
 *
 * and the changes, in the order in which they stand:
 *
 *     address, params, sender, add-recipient, delete-recipient, body: the value
 *     insert, add, change: "[INDEX ]Name: value"; delete: "[INDEX ]Name"
 */
#include "tests/plugins/words.h"

#define CHANGES_MAX 16

struct changer {
	const struct ringpost_host *host;
	uint32_t at;
	int later;
	size_t count;
	struct ringpost_change changes[CHANGES_MAX];
};

static struct ringpost_span span(const char *s, size_t n)
{
	struct ringpost_span out = {s, n};

	return out;
}

/* "2 Name: value" */
static void field(struct ringpost_change *c, const char *text)
{
	char *end;
	unsigned long index = strtoul(text, &end, 10);
	size_t n;

	if (end != text && *end == ' ') {
		c->index = (uint32_t)index;
		text = end + 1;
	}
	n = strcspn(text, ":");
	c->name = span(text, n);
	text += n;
	text += strspn(text, ": ");
	c->value = span(text, strlen(text));
}

static int odd(struct changer *ch, struct ringpost_change *c, const char *how)
{
	if (strcmp(how, "kind") == 0)
		c->kind = RINGPOST_REPLACE_BODY + 1;
	else if (strcmp(how, "null") == 0)
		*c = (struct ringpost_change){.kind = RINGPOST_CHANGE_ADDRESS, .value = {NULL, 3}};
	else
		return 0;
	ch->count++;
	return 1;
}

static int set(struct changer *ch, const struct ringpost_option *o)
{
	static const char *const names[] = {[RINGPOST_CHANGE_ADDRESS] = "address",
		[RINGPOST_CHANGE_PARAMS] = "params",
		[RINGPOST_INSERT_HEADER] = "insert",
		[RINGPOST_ADD_HEADER] = "add",
		[RINGPOST_CHANGE_HEADER] = "change",
		[RINGPOST_DELETE_HEADER] = "delete",
		[RINGPOST_CHANGE_SENDER] = "sender",
		[RINGPOST_ADD_RECIPIENT] = "add-recipient",
		[RINGPOST_DELETE_RECIPIENT] = "delete-recipient",
		[RINGPOST_REPLACE_BODY] = "body"};
	struct ringpost_change *c = &ch->changes[ch->count];

	if (strcmp(o->name, "at") == 0)
		return (ch->at = events_of(o->value)) != 0;
	if (strcmp(o->name, "later") == 0)
		return ch->later = 1;
	if (ch->count == CHANGES_MAX)
		return 0;
	if (strcmp(o->name, "odd") == 0)
		return odd(ch, c, o->value);
	for (uint32_t k = RINGPOST_CHANGE_ADDRESS; k <= RINGPOST_REPLACE_BODY; k++) {
		if (strcmp(names[k], o->name) != 0)
			continue;
		c->kind = k;
		if (k >= RINGPOST_INSERT_HEADER && k <= RINGPOST_DELETE_HEADER)
			field(c, o->value);
		else
			c->value = span(o->value, strlen(o->value));
		ch->count++;
		return 1;
	}
	return 0;
}

static int open_it(const struct ringpost_host *host, const struct ringpost_option *options,
	size_t option_count, void **self, char *error, size_t error_size)
{
	struct changer *ch = calloc(1, sizeof(*ch));

	if (!ch) {
		snprintf(error, error_size, "no memory");
		return -1;
	}
	ch->host = host;
	for (size_t i = 0; i < option_count; i++)
		if (!set(ch, &options[i])) {
			snprintf(error, error_size, "option `%s: %s` is not one of change",
				options[i].name, options[i].value);
			free(ch);
			return -1;
		}
	*self = ch;
	return 0;
}

/* From an array that is gone when this comes back: what answer() was given it has copied. */
static uint32_t answer_later(const struct changer *ch, const struct ringpost_event *ev)
{
	struct ringpost_token t = ch->host->suspend(ch->host->handle, ev);
	struct ringpost_change changes[CHANGES_MAX];
	struct ringpost_answer a = {
		.size = sizeof(a), .changes = changes, .change_count = ch->count};

	memcpy(changes, ch->changes, sizeof(changes));
	(void)ch->host->answer(ch->host->handle, t, RINGPOST_PASS, &a);
	memset(changes, 0xff, sizeof(changes));
	return RINGPOST_PENDING;
}

static uint32_t event(void *self, const struct ringpost_event *ev, struct ringpost_answer *answer)
{
	const struct changer *ch = self;

	if (ev->kind >= RINGPOST_STARTTLS || !(ch->at & RINGPOST_ON(ev->kind)))
		return RINGPOST_PASS;
	if (ch->later)
		return answer_later(ch, ev);
	answer->changes = ch->changes;
	answer->change_count = ch->count;
	return RINGPOST_PASS;
}

const struct ringpost_plugin ringpost_plugin = {RINGPOST_ABI, sizeof(struct ringpost_plugin),
	"change", 0, RINGPOST_ON_ALL, open_it, free, event};
