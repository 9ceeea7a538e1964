/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The envelope of a message that is kept, as commands that can be said again: MAIL, and each RCPT
 * with what the upstream said of it. Hooks that have seen the message may want another sender or
 * other recipients, and by then the upstream has been told these.
 *
 * Ownership: the transaction's; one allocation that grows. Failure modes: no memory, or more octets
 * than ENVELOPE_BYTES_MAX: false, and the envelope is as before.
 */
#include "engine/session/session_int.h"

#include "engine/smtp/octets.h"

#define ENVELOPE_BYTES_MAX (4u << 20)

/* In front of each line. */
struct entry {
	uint32_t n; /* octets of the line, CRLF included */
	uint8_t state;
};

static struct entry entry_at(const struct envelope *e, size_t at)
{
	struct entry x;

	memcpy(&x, e->p + at, sizeof(x));
	return x;
}

static void set_state(struct envelope *e, size_t at, enum env_state state)
{
	struct entry x = entry_at(e, at);

	x.state = (uint8_t)state;
	memcpy(e->p + at, &x, sizeof(x));
}

bool env_next(const struct envelope *e, size_t *at, struct env_line *out)
{
	struct entry x;

	if (*at >= e->n)
		return false;
	x = entry_at(e, *at);
	out->at = *at;
	out->line = span_of(e->p + *at + sizeof(x), x.n);
	out->state = (enum env_state)x.state;
	*at += sizeof(x) + x.n;
	return true;
}

static bool reserve(struct envelope *e, size_t more)
{
	size_t max = MAX_OF(e->max, (size_t)512);
	uint8_t *p;

	if (e->n + more <= e->max)
		return true;
	while (max < e->n + more)
		max *= 2;
	if (max > ENVELOPE_BYTES_MAX)
		return false;
	p = realloc(e->p, max);
	if (!p)
		return false;
	e->p = p;
	e->max = max;
	return true;
}

bool env_add(struct envelope *e, enum env_state state, struct span line)
{
	struct entry x = {.n = (uint32_t)line.n, .state = (uint8_t)state};

	if (!reserve(e, sizeof(x) + line.n))
		return false;
	memcpy(e->p + e->n, &x, sizeof(x));
	memcpy(e->p + e->n + sizeof(x), line.p, line.n);
	e->n += sizeof(x) + line.n;
	return true;
}

void env_answered(struct envelope *e, bool taken)
{
	struct env_line l;

	for (size_t at = 0; env_next(e, &at, &l);)
		if (l.state == ENV_ASKED) {
			set_state(e, l.at, taken ? ENV_TAKEN : ENV_REFUSED);
			return;
		}
}

/* A whole line, as it was passed on or made here. */
static bool read_path(struct span line, bool is_rcpt, struct smtp_path *out)
{
	struct smtp_cmd cmd;

	return smtp_cmd_parse(span_of(line.p, line.n - 2), &cmd) &&
	       smtp_path_parse(cmd.args, is_rcpt, out) == PATH_OK;
}

static bool names(struct span line, struct span mailbox)
{
	struct smtp_path path;

	return read_path(line, true, &path) && span_ieq(path.mailbox, mailbox);
}

bool env_delete(struct envelope *e, struct span mailbox)
{
	struct env_line l;
	bool found = false;

	for (size_t at = 0; env_next(e, &at, &l);) {
		bool there = l.state == ENV_TAKEN || l.state == ENV_NEW;

		if (!there || !names(l.line, mailbox))
			continue;
		e->again |= l.state == ENV_TAKEN;
		set_state(e, l.at, ENV_GONE);
		found = true;
	}
	return found;
}

static bool add_command(struct envelope *e, enum env_state state, const char *verb,
	struct span mailbox, struct span params)
{
	char line[SMTP_PATH_BYTES_MAX + HOOK_PARAMS_BYTES_MAX];
	int n = snprintf(line, sizeof(line), "%s:<%.*s>%s%.*s\r\n", verb, (int)mailbox.n,
		(const char *)mailbox.p, params.n ? " " : "", (int)params.n,
		(const char *)params.p);

	return (size_t)n < sizeof(line) && env_add(e, state, span_of(line, (size_t)n));
}

bool env_rcpt(struct envelope *e, struct span mailbox, struct span params)
{
	return add_command(e, ENV_NEW, "RCPT TO", mailbox, params);
}

/* The parameters of the MAIL that is there, for one that names none: SIZE, BODY and SMTPUTF8 say
 * what the message is. */
static struct span old_params(const struct envelope *e)
{
	struct smtp_path path;
	struct env_line l;

	for (size_t at = 0; env_next(e, &at, &l);)
		if (l.state == ENV_MAIL && read_path(l.line, false, &path))
			return path.params;
	return SPAN_NONE;
}

bool env_sender(struct envelope *e, struct span mailbox, struct span params)
{
	struct envelope with = {0};
	struct env_line l;
	bool good;

	if (params.n == 0)
		params = old_params(e);
	/* MAIL comes first, so the list is made anew. */
	good = add_command(&with, ENV_MAIL, "MAIL FROM", mailbox, params);
	for (size_t at = 0; good && env_next(e, &at, &l);)
		if (l.state != ENV_MAIL)
			good = env_add(&with, l.state, l.line);
	if (!good) {
		env_free(&with);
		return false;
	}
	free(e->p);
	*e = with;
	e->again = true;
	return true;
}

uint32_t env_rcpts(const struct envelope *e)
{
	struct env_line l;
	uint32_t n = 0;

	for (size_t at = 0; env_next(e, &at, &l);)
		n += l.state == ENV_TAKEN || l.state == ENV_NEW;
	return n;
}

bool env_to_say(const struct envelope *e, size_t *at, struct span *line)
{
	struct env_line l;

	while (env_next(e, at, &l))
		if (l.state == ENV_NEW ||
			(e->again && (l.state == ENV_MAIL || l.state == ENV_TAKEN))) {
			*line = l.line;
			return true;
		}
	return false;
}

void env_free(struct envelope *e)
{
	free(e->p);
	*e = (struct envelope){0};
}
