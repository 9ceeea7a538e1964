/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Hooks of type policy: an event becomes a request of Postfix's policy delegation, an action
 * becomes a verdict. The wire is policy_wire.h, the connections are policy_pool.h; a hook's share
 * of a worker is a pool. An open question is the call's `own` until it is settled or forgotten.
 *
 * Threads: open() and close() are the main thread's; all else is the worker's.
 *
 * Failure modes: no room for another question, no answer to be had, an action that cannot be
 * honoured here (it would need a queue) or that nobody knows: the question fails, and `on-failure`
 * decides; the log says why, once a second. Actions that come too late or too early, and a PREPEND
 * of what is no header: told, and passed over, as Postfix does.
 */
#include "engine/hook/addr.h"
#include "engine/hook/hook_int.h"
#include "engine/hook/policy/policy_pool.h"
#include "engine/hook/ringpost.h"
#include "engine/smtp/octets.h"
#include "ring/listen.h"

#include <inttypes.h>

/* ---- the request ---- */

/* Postfix has no state for AUTH. An EHLO that was a HELO: see state_of(). */
static const struct {
	bool asked;
	enum policy_state state;
} states[HOOK_POINT_COUNT] = {
	[HOOK_CONNECT] = {true, POLICY_AT_CONNECT},
	[HOOK_EHLO] = {true, POLICY_AT_EHLO},
	[HOOK_MAIL] = {true, POLICY_AT_MAIL},
	[HOOK_RCPT] = {true, POLICY_AT_RCPT},
	[HOOK_DATA] = {true, POLICY_AT_DATA},
	[HOOK_END_OF_DATA] = {true, POLICY_AT_EOM},
};

static enum policy_state state_of(const struct hook_event *ev)
{
	return ev->point == HOOK_EHLO && !ev->ehlo ? POLICY_AT_HELO : states[ev->point].state;
}

#define UNKNOWN SPAN_LIT("unknown")

/* What the spans of a request point to and nobody else has. */
struct texts {
	char client[HOOK_ADDR_BYTES], server[HOOK_ADDR_BYTES];
	char queue_id[17], instance[34];
	char subject[3 * TLS_SUBJECT_MAX], fingerprint[3 * 32];
};

static struct span address_text(const struct ring_addr *a, char out[HOOK_ADDR_BYTES])
{
	return span_of(out, a ? hook_addr_text(a, out) : 0);
}

/* A client that comes by a Unix socket is this host, as for Postfix. Names are not looked up. */
static void fill_peers(struct policy_request *r, const struct hook_event *ev, struct texts *t)
{
	r->client_name = r->reverse_client_name = UNKNOWN;
	r->client_address = address_text(ev->client, t->client);
	r->client_port = ev->client ? addr_port(ev->client) : 0;
	if (r->client_address.n == 0) {
		r->client_address = SPAN_LIT("127.0.0.1");
		r->client_name = r->reverse_client_name = SPAN_LIT("localhost");
	}
	r->server_address = address_text(ev->server, t->server);
	r->server_port = ev->server ? addr_port(ev->server) : 0;
}

static void fill_ids(struct policy_request *r, const struct hook_event *ev, struct texts *t)
{
	snprintf(t->instance, sizeof(t->instance), "%" PRIx64 ".%" PRIx64, ev->sid, ev->tid);
	r->instance = span_str(t->instance);
	if (ev->tid == 0)
		return;
	snprintf(t->queue_id, sizeof(t->queue_id), "%016" PRIx64, ev->tid);
	r->queue_id = span_str(t->queue_id);
}

static const char hex[] = "0123456789ABCDEF";

/* RFC 3461 4, as Postfix writes it. What does not fit is left out, an octet or its code at a time.
 */
static struct span xtext(struct span from, char *out, size_t max)
{
	size_t n = 0;

	for (size_t i = 0; i < from.n && n + 3 <= max; i++) {
		uint8_t c = from.p[i];

		if (c > 0x20 && c < 0x7f && c != '+') {
			out[n++] = (char)c;
			continue;
		}
		out[n++] = '+';
		out[n++] = hex[c >> 4];
		out[n++] = hex[c & 15];
	}
	return span_of(out, n);
}

/* "AB:CD:..." */
static struct span fingerprint(struct span sum, char *out, size_t max)
{
	size_t n = 0;

	for (size_t i = 0; i < sum.n && n + 3 <= max; i++) {
		out[n++] = hex[sum.p[i] >> 4];
		out[n++] = hex[sum.p[i] & 15];
		out[n++] = ':';
	}
	return span_of(out, n > 0 ? n - 1 : 0);
}

/* As Postfix does: the name only of a certificate that somebody vouches for, the fingerprint of any
 * one, since whoever knows it needs nobody for that. */
static void fill_tls(struct policy_request *r, const struct hook_tls *tls, struct texts *t)
{
	r->encryption_protocol = tls->version;
	r->encryption_cipher = tls->cipher;
	r->encryption_keysize = tls->bits;
	r->tls_sni = tls->sni;
	if (tls->verified)
		r->ccert_subject = xtext(tls->subject, t->subject, sizeof(t->subject));
	r->ccert_fingerprint = fingerprint(tls->sha256, t->fingerprint, sizeof(t->fingerprint));
}

/* policy_write() leaves out what has no value in its state. */
static void fill_request(struct policy_request *r, const struct hook_event *ev,
	const struct conf_hook *conf, uint64_t size, struct texts *t)
{
	*r = (struct policy_request){.protocol_state = state_of(ev),
		.protocol_name = ev->ehlo ? SPAN_LIT("ESMTP") : SPAN_LIT("SMTP"),
		.helo_name = ev->helo,
		.sender = ev->point == HOOK_MAIL ? ev->path->mailbox : ev->sender,
		.recipient = ev->point == HOOK_RCPT ? ev->path->mailbox : ev->only_rcpt,
		.recipient_count = ev->recipients,
		.size = ev->point == HOOK_END_OF_DATA ? ev->bytes : size,
		.sasl_method = ev->mechanism,
		.sasl_username = ev->identity,
		.policy_context = span_str(conf->policy_context ? conf->policy_context : "")};
	fill_peers(r, ev, t);
	fill_ids(r, ev, t);
	if (ev->tls)
		fill_tls(r, ev->tls, t);
}

/* MAIL's SIZE= is told with all that follows. It is kept in the session's pointer itself, so there
 * is nothing to free. */
static uint64_t message_size(const struct hook *h, const struct hook_ask *ask)
{
	struct smtp_mail_params params;
	struct span bad;
	void **own = hook_own(h, ask);

	if (!own)
		return 0;
	if (ask->ev->point == HOOK_MAIL) {
		uint64_t size =
			smtp_mail_params(ask->ev->path->params, &params, &bad) ? params.size : 0;

		*own = (void *)(uintptr_t)MIN_OF(size, (uint64_t)UINTPTR_MAX);
	}
	return (uint64_t)(uintptr_t)*own;
}

static enum hook_reach policy_ask(
	struct hook *h, const struct hook_ask *ask, struct hook_verdict *v)
{
	const struct hook_event *ev = ask->ev;
	const uint64_t size = ev->point < HOOK_MAIL ? 0 : message_size(h, ask);
	struct hook_token token;
	struct policy_request r;
	struct policy_asker who;
	struct hook_call *call;
	struct texts texts;

	if ((h->conf->events & 1u << ev->point) == 0)
		return REACH_ANSWERED; /* it was only for the size */
	if (!hook_suspend(h, ask, &token))
		return REACH_FAILED;
	call = ask->seat->call;
	who = (struct policy_asker){call, ev->sid, ev->tid};
	fill_request(&r, ev, h->conf, size, &texts);
	call->own = policy_pool_ask(hook_share(h, ask->core), &r, &who);
	if (call->own)
		return REACH_PENDING;
	hook_resume(ask);
	hook_complain(ask->core, h, ev->point, "too many questions are under way");
	return REACH_FAILED;
}

/* ---- the verdict ---- */

/* The reply that is being judged. */
struct judged {
	struct hook_call *call;
	const struct policy_asker *who;
	const struct policy_reply *r;
};

/* One line about the action that was sent, whatever octets it has. */
static void complain(const struct judged *j, const char *what)
{
	struct span word = j->r->word;
	char line[120];
	size_t n = 0;

	for (; n < MIN_OF(word.n, (size_t)30); n++)
		line[n] = word.p[n] > ' ' && word.p[n] <= '~' ? (char)word.p[n] : '?';
	snprintf(line + n, sizeof(line) - n, ": %s", what);
	hook_complain(j->call->core, j->call->hook, (enum hook_point)j->call->point, line);
}

/* Whom it was about is in the log under the same numbers. */
static void log_action(const struct judged *j, int level)
{
	char line[LOG_VALUE_BYTES_MAX + 1];

	snprintf(line, sizeof(line), "%s sid=%016" PRIx64 " tid=%016" PRIx64 " %.200s", j->r->name,
		j->who->sid, j->who->tid, j->r->text);
	hook_log(j->call->hook, level, line);
}

static bool refuse(const struct judged *j, enum hook_verdict_kind kind, struct hook_verdict *v)
{
	const struct policy_reply *r = j->r;

	v->kind = kind;
	if (r->code / 100 == 5 && kind == VERDICT_TEMPFAIL)
		v->kind = VERDICT_REJECT;
	/* Behind these Postfix closes the connection. */
	if (r->code == 421 || r->code == 521)
		v->kind = VERDICT_DROP;
	hook_verdict_words(v, r->code, r->enhanced, r->text);
	return true;
}

/* The text is for the log alone: the client is to see nothing of it. */
static bool discard(const struct judged *j, struct hook_verdict *v)
{
	if (j->call->point < HOOK_MAIL) {
		complain(j, "there is no message yet: passed over");
		return true;
	}
	v->kind = VERDICT_DISCARD;
	log_action(j, RINGPOST_LOG_INFO);
	return true;
}

static bool prepend(const struct judged *j, struct hook_verdict *v)
{
	enum hook_point point = (enum hook_point)j->call->point;
	struct hook_edit e = {.kind = EDIT_HEADER_INSERT};

	if ((hook_edits_possible(point, j->call->hook->conf->mode) & 1u << e.kind) == 0) {
		complain(j, point < HOOK_MAIL ? "there is no message yet: passed over"
					      : "too late: passed over");
		return true;
	}
	e.name = span_split(j->r->header, ':', &e.value);
	if (hook_edits_add(&v->edits, &e, false))
		return true;
	complain(j, "no room for the header field");
	return false;
}

/* False: no verdict can be made of it. */
static bool judge(const struct judged *j, struct hook_verdict *v)
{
	switch (j->r->kind) {
	case POLICY_PASS:
		return true;
	case POLICY_REJECT:
		return refuse(j, VERDICT_REJECT, v);
	case POLICY_TEMPFAIL:
	case POLICY_CODE:
		return refuse(j, VERDICT_TEMPFAIL, v);
	case POLICY_DEFER_IF_PERMIT:
		return refuse(j, VERDICT_DEFER_IF_PASS, v);
	case POLICY_DEFER_IF_REJECT:
		return refuse(j, VERDICT_DEFER_IF_REJECT, v);
	case POLICY_DISCARD:
		return discard(j, v);
	case POLICY_PREPEND:
		return prepend(j, v);
	case POLICY_WARN:
		log_action(j, RINGPOST_LOG_WARN);
		return true;
	case POLICY_INFO:
		log_action(j, RINGPOST_LOG_INFO);
		return true;
	case POLICY_BAD_HEADER:
		complain(j, "not a header field: passed over");
		return true;
	case POLICY_UNSUPPORTED:
		complain(j, "cannot be honoured here");
		return false;
	case POLICY_UNKNOWN:
		break;
	}
	complain(j, "no action that is known here");
	return false;
}

static void replied(const struct policy_asker *who, const struct policy_reply *r)
{
	const struct judged j = {who->call, who, r};
	struct hook_verdict v = {0};
	bool good = judge(&j, &v);

	j.call->own = NULL;
	if (good)
		hook_settle(j.call, &v);
	else
		hook_settle_failed(j.call);
}

static void failed(const struct policy_asker *who, const char *why)
{
	struct hook_call *call = who->call;

	call->own = NULL;
	hook_complain(call->core, call->hook, (enum hook_point)call->point, why);
	hook_settle_failed(call);
}

static const struct policy_pool_events pool_events = {replied, failed};

static void policy_forget(struct hook *h, struct hook_call *call)
{
	struct policy_pool *pool = hook_share(h, call->core);

	if (call->own)
		policy_pool_forget(pool, call->own);
	call->own = NULL;
}

/* ---- the kind of hook ---- */

static bool policy_open(struct hook *h, char *why, size_t why_max)
{
	for (uint32_t point = 0; point < HOOK_POINT_COUNT; point++)
		if ((h->conf->events & 1u << point) != 0 && !states[point].asked) {
			snprintf(why, why_max, "policy delegation knows no such event");
			return false;
		}
	h->wants = h->conf->events;
	if ((h->wants & (1u << HOOK_RCPT | 1u << HOOK_DATA)) != 0)
		h->wants |= 1u << HOOK_MAIL;
	return true;
}

static void policy_close(struct hook *h)
{
}

static bool policy_begin(struct hook *h, struct hook_core *c, void **share)
{
	struct policy_pool *pool = calloc(1, sizeof(*pool));

	/* A session has one question at a time. */
	*share = pool;
	if (!pool)
		return false;
	if (policy_pool_init(
		    pool, h->conf, c->sessions_max, &pool_events, c->streams, c->timers, c->stats))
		return true;
	policy_pool_fini(pool);
	free(pool);
	*share = NULL;
	return false;
}

static bool policy_wind_up(struct hook *h, void *share)
{
	return policy_pool_wind_up(share);
}

static void policy_end(struct hook *h, void *share)
{
	policy_pool_fini(share);
	free(share);
}

const struct hook_class hook_policy_class = {.may_wait = true,
	.open = policy_open,
	.close = policy_close,
	.begin = policy_begin,
	.wind_up = policy_wind_up,
	.end = policy_end,
	.ask = policy_ask,
	.forget = policy_forget};
