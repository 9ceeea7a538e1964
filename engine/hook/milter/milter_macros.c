/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Macros: what filters ask to know besides the steps themselves. Names as Sendmail made them up;
 * which are sent at which step is the filter's own list from the negotiation, or Postfix's default.
 * What is not known is left out: filters take that for an answer too (opendkim signs for whom
 * {auth_authen} is there).
 *
 * Pure but for what it reads of the session; nothing is looked up.
 */
#include "engine/hook/addr.h"
#include "engine/hook/milter/milter_int.h"
#include "ring/listen.h"

#define ROOM_BYTES 128 /* of one value that is made up here */
#define MACROS_MAX 48  /* of one packet: more than there are names, some twice */

struct value {
	const struct milter_session *s;
	char room[ROOM_BYTES];
};

/* ---- addresses ---- */

/* Empty for Unix sockets. */
static struct span address_text(const struct ring_addr *a, char out[HOOK_ADDR_BYTES])
{
	return span_of(out, hook_addr_text(a, out));
}

static struct span port_text(const struct ring_addr *a, char *out, size_t max)
{
	char address[HOOK_ADDR_BYTES];

	if (hook_addr_text(a, address) == 0)
		return SPAN_NONE;
	snprintf(out, max, "%u", addr_port(a));
	return span_str(out);
}

struct span milter_client_name(const struct milter_session *s, char *out, size_t max)
{
	char text[HOOK_ADDR_BYTES];
	size_t n = hook_addr_text(&s->client, text);

	if (n == 0)
		return SPAN_LIT("localhost");
	snprintf(out, max, "[%.*s]", (int)n, text);
	return span_str(out);
}

static struct span domain_of(struct span mailbox)
{
	const uint8_t *at = mailbox.n > 0 ? memrchr(mailbox.p, '@', mailbox.n) : NULL;

	return at ? span_of(at + 1, mailbox.n - (size_t)(at + 1 - mailbox.p)) : SPAN_NONE;
}

/* ---- the macros ---- */

static struct span word(const struct value *v, enum milter_word w)
{
	return milter_buf_span(&v->s->words[w]);
}

static struct span of_j(struct value *v)
{
	return span_str(((const struct milter *)v->s->share->h->self)->host);
}

static struct span of_v(struct value *v)
{
	return SPAN_LIT("ringpost " RINGPOST_VERSION);
}

/* As the log has it. */
static struct span of_i(struct value *v)
{
	snprintf(v->room, sizeof(v->room), "%016llx", (unsigned long long)v->s->tid);
	return span_str(v->room);
}

static struct span of_daemon_name(struct value *v)
{
	const char *name = v->s->share->h->conf->daemon_name;

	return span_str(name ? name : v->s->lis->name);
}

static struct span of_daemon_addr(struct value *v)
{
	return address_text(&v->s->server, v->room);
}

static struct span of_daemon_port(struct value *v)
{
	return port_text(&v->s->server, v->room, sizeof(v->room));
}

static struct span of_client_name(struct value *v)
{
	return milter_client_name(v->s, v->room, sizeof(v->room));
}

static struct span of_client_ptr(struct value *v)
{
	return SPAN_LIT("unknown");
}

static struct span of_client_addr(struct value *v)
{
	return address_text(&v->s->client, v->room);
}

static struct span of_client_port(struct value *v)
{
	return port_text(&v->s->client, v->room, sizeof(v->room));
}

static struct span of_auth_type(struct value *v)
{
	return word(v, WORD_MECHANISM);
}

static struct span of_auth_authen(struct value *v)
{
	return word(v, WORD_IDENTITY);
}

static struct span of_tls_version(struct value *v)
{
	return word(v, WORD_TLS_VERSION);
}

static struct span of_cipher(struct value *v)
{
	return word(v, WORD_TLS_CIPHER);
}

static struct span of_cipher_bits(struct value *v)
{
	if (v->s->tls_bits == 0)
		return SPAN_NONE;
	snprintf(v->room, sizeof(v->room), "%u", v->s->tls_bits);
	return span_str(v->room);
}

static struct span of_cert_subject(struct value *v)
{
	return word(v, WORD_TLS_SUBJECT);
}

static struct span of_verify(struct value *v)
{
	return span_str(v->s->tls_verify);
}

static struct span of_mail_addr(struct value *v)
{
	return word(v, WORD_SENDER);
}

static struct span of_mail_host(struct value *v)
{
	return domain_of(word(v, WORD_SENDER));
}

static struct span of_rcpt_addr(struct value *v)
{
	return word(v, WORD_RCPT);
}

static struct span of_rcpt_host(struct value *v)
{
	return domain_of(word(v, WORD_RCPT));
}

static struct span of_mailer(struct value *v)
{
	return SPAN_LIT("smtp");
}

enum { OF_SESSION, OF_MESSAGE, EVEN_EMPTY };

/* OF_MESSAGE: only when there is one. EVEN_EMPTY: and without a value too (the null sender's). */
static const struct macro_row {
	const char *name;
	struct span (*of)(struct value *v);
	int when;
} known[] = {
	{"j", of_j, OF_SESSION},
	{"v", of_v, OF_SESSION},
	{"i", of_i, OF_MESSAGE},
	{"_", of_client_name, OF_SESSION},
	{"{daemon_name}", of_daemon_name, OF_SESSION},
	{"{daemon_addr}", of_daemon_addr, OF_SESSION},
	{"{daemon_port}", of_daemon_port, OF_SESSION},
	{"{if_addr}", of_daemon_addr, OF_SESSION},
	{"{client_name}", of_client_name, OF_SESSION},
	{"{client_ptr}", of_client_ptr, OF_SESSION},
	{"{client_addr}", of_client_addr, OF_SESSION},
	{"{client_port}", of_client_port, OF_SESSION},
	{"{tls_version}", of_tls_version, OF_SESSION},
	{"{cipher}", of_cipher, OF_SESSION},
	{"{cipher_bits}", of_cipher_bits, OF_SESSION},
	{"{cert_subject}", of_cert_subject, OF_SESSION},
	{"{verify}", of_verify, OF_SESSION},
	{"{auth_type}", of_auth_type, OF_SESSION},
	{"{auth_authen}", of_auth_authen, OF_SESSION},
	{"{mail_addr}", of_mail_addr, EVEN_EMPTY},
	{"{mail_host}", of_mail_host, OF_MESSAGE},
	{"{mail_mailer}", of_mailer, OF_MESSAGE},
	{"{rcpt_addr}", of_rcpt_addr, OF_MESSAGE},
	{"{rcpt_host}", of_rcpt_host, OF_MESSAGE},
	{"{rcpt_mailer}", of_mailer, OF_MESSAGE},
};

static const struct stage_row {
	enum milter_stage stage;
	enum milter_command command;
	const char *usual;
} stages[MILTER_STEP_COUNT] = {
	[MILTER_AT_CONNECT] = {MILTER_M_CONNECT, MILTER_C_CONNECT,
		"j {daemon_name} {daemon_addr} {daemon_port} v _ {client_name} {client_addr} "
		"{client_port} {client_ptr}"},
	[MILTER_AT_HELO] = {MILTER_M_HELO, MILTER_C_HELO,
		"{tls_version} {cipher} {cipher_bits} {cert_subject} {verify}"},
	[MILTER_AT_MAIL] = {MILTER_M_MAIL, MILTER_C_MAIL,
		"i {auth_type} {auth_authen} {mail_addr} {mail_host} {mail_mailer}"},
	[MILTER_AT_RCPT] = {MILTER_M_RCPT, MILTER_C_RCPT,
		"i {rcpt_addr} {rcpt_host} {rcpt_mailer}"},
	[MILTER_AT_DATA] = {MILTER_M_DATA, MILTER_C_DATA, "i"},
	[MILTER_AT_EOH] = {MILTER_M_EOH, MILTER_C_EOH, "i"},
	[MILTER_AT_EOB] = {MILTER_M_EOB, MILTER_C_EOB, "i"},
};

static const struct macro_row *row_of(struct span name)
{
	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (span_eq(name, span_str(known[i].name)))
			return &known[i];
	return NULL;
}

bool milter_macros(const struct milter_session *s, enum milter_step step, struct milter_out *o)
{
	const struct stage_row *stage = &stages[step];
	struct span own = s->conn->macros[stage->stage];
	struct span rest = own.p ? own : span_str(stage->usual), name;
	struct milter_macro list[MACROS_MAX];
	struct value values[MACROS_MAX];
	size_t n = 0;

	while (n < MACROS_MAX && milter_macro_next(&rest, &name)) {
		const struct macro_row *row = row_of(name);

		if (!row || (row->when != OF_SESSION && s->message == MESSAGE_NONE))
			continue;
		values[n].s = s;
		list[n] = (struct milter_macro){.name = name, .value = row->of(&values[n])};
		if (list[n].value.n > 0 || row->when == EVEN_EMPTY)
			n++;
	}
	return n > 0 && milter_put_macros(o, stage->command, list, n);
}
