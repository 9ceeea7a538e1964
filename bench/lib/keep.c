/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See keep.h. Paths and parameters hold no line end (the command parser refuses them), so a line of
 * the envelope is a line.
 */
#include "bench/lib/keep.h"

struct keep *keep_new(struct store *store, bool whole, bool check)
{
	struct keep *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->file.fd = -1;
	m->store = store;
	content_init(&m->content, whole, check);
	return m;
}

void keep_free(struct keep *m)
{
	if (!m)
		return;
	if (m->begun)
		store_abort(m->store, &m->file);
	free(m->env);
	free(m);
}

static bool room_for(struct keep *m, size_t more)
{
	size_t cap = MAX_OF(m->env_cap * 2, m->env_len + more + 256);

	if (m->env_len + more <= m->env_cap)
		return true;
	char *grown = cap <= KEEP_ENVELOPE_BYTES_MAX ? realloc(m->env, cap) : NULL;
	if (!grown)
		return false;
	m->env = grown;
	m->env_cap = cap;
	return true;
}

static bool add_line(struct keep *m, const char *what, const char *more, struct span value)
{
	if (!room_for(m, strlen(what) + strlen(more) + value.n + 3))
		return false;
	m->env_len += (size_t)snprintf(m->env + m->env_len, m->env_cap - m->env_len, "%s%s %.*s\n",
		what, more, (int)value.n, (const char *)value.p);
	return true;
}

bool keep_path(struct keep *m, const char *what, struct span mailbox, struct span parameters)
{
	if (!m)
		return true;
	if (!add_line(m, what, "", mailbox))
		return false;
	return parameters.n == 0 || add_line(m, what, "-PARAMETERS", parameters);
}

static void begin(struct keep *m)
{
	if (!m->store || m->begun)
		return;
	m->begun = true;
	store_begin(m->store, &m->file);
}

static void piece(void *arg, struct span octets)
{
	struct keep *m = arg;

	content_feed(&m->content, octets);
	if (m->store)
		store_write(&m->file, octets);
}

void keep_body(struct keep *m, struct span in, bool dots)
{
	begin(m);
	if (dots)
		unstuff_feed(&m->unstuff, in, piece, m);
	else
		piece(m, in);
}

bool keep_commit(struct keep *m)
{
	if (!m->store)
		return true;
	begin(m); /* BDAT 0 LAST alone brings no octets */
	m->begun = false;
	return store_commit(m->store, &m->file, span_of(m->env, m->env_len));
}

/* Iterates the envelope's lines. False at the end. */
static bool next_line(struct span *rest, struct span *name, struct span *value)
{
	const uint8_t *end = rest->n ? memchr(rest->p, '\n', rest->n) : NULL;

	if (!end)
		return false;
	const uint8_t *sp = memchr(rest->p, ' ', (size_t)(end - rest->p));
	*name = span_of(rest->p, (size_t)(sp - rest->p));
	*value = span_of(sp + 1, (size_t)(end - sp) - 1);
	*rest = span_drop(*rest, (size_t)(end - rest->p) + 1);
	return true;
}

void keep_print_envelope(struct json *j, const struct keep *m)
{
	struct span rest = span_of(m->env, m->env_len), name, value;

	while (next_line(&rest, &name, &value)) {
		if (span_eq(name, SPAN_LIT("MAIL")))
			json_str(j, "from", value);
		else if (span_eq(name, SPAN_LIT("MAIL-PARAMETERS")))
			json_str(j, "parameters", value);
	}
	json_list(j, "to");
	rest = span_of(m->env, m->env_len);
	while (next_line(&rest, &name, &value))
		if (span_eq(name, SPAN_LIT("RCPT")))
			json_str(j, NULL, value);
	json_list_end(j);
}
