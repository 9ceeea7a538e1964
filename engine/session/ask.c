/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What hooks are told of a session: each event is filled in here, from the state as it is then.
 * A drop ends the session behind the reply.
 */
#include "engine/session/session_int.h"

#include <netinet/in.h>

/* The address that the client has come to, as few octets as it can be kept in. */
void sess_note_server(struct session *s, struct ring_fd fd)
{
	struct sess_server *to = &s->server_addr;
	struct ring_addr a;

	if (s->lis->hook_count == 0 || ring_local_addr(s->core->ring, fd, &a) != RING_OK)
		return;
	to->family = a.sa.sa_family;
	if (to->family == AF_INET) {
		const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)&a.ss;

		to->port = v4->sin_port;
		memcpy(to->addr, &v4->sin_addr, sizeof(v4->sin_addr));
	} else if (to->family == AF_INET6) {
		const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)&a.ss;

		to->port = v6->sin6_port;
		memcpy(to->addr, &v6->sin6_addr, sizeof(v6->sin6_addr));
	}
}

static const struct ring_addr *server_of(const struct session *s)
{
	const struct sess_server *from = &s->server_addr;
	struct ring_addr *a = &s->core->event_server;

	/* For every event, so no more than what is looked at: the rest is zero from the start. */
	a->sa.sa_family = from->family;
	a->len = sizeof(a->sa);
	if (from->family == AF_INET) {
		struct sockaddr_in *v4 = (struct sockaddr_in *)(void *)&a->ss;

		v4->sin_port = from->port;
		memcpy(&v4->sin_addr, from->addr, sizeof(v4->sin_addr));
		a->len = sizeof(*v4);
	} else if (from->family == AF_INET6) {
		struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)(void *)&a->ss;

		v6->sin6_port = from->port;
		v6->sin6_flowinfo = 0; /* where the address of an IPv4 one was */
		memcpy(&v6->sin6_addr, from->addr, sizeof(v6->sin6_addr));
		a->len = sizeof(*v6);
	}
	return a;
}

/* For as long as *to is there. Whatever the client says it is (XCLIENT): of its connection. */
static const struct hook_tls *tls_of(const struct session *s, struct hook_tls *to)
{
	struct tls_facts f;

	if (!s->cli_tls)
		return NULL;
	tls_facts(s->tls, &f);
	*to = (struct hook_tls){.version = span_str(f.version),
		.cipher = span_str(f.cipher),
		.bits = f.bits,
		.sni = span_str(f.sni),
		.certified = f.certified,
		.verified = f.verified,
		.subject = span_str(f.subject),
		.sha256 = f.sha256 ? span_of(f.sha256, 32) : SPAN_NONE};
	return to;
}

/* *tls is for the event to point to. */
static void fill_event(struct session *s, struct hook_event *ev, struct hook_tls *tls)
{
	const struct txn *t = s->txn;

	ev->sid = s->id;
	ev->client = &s->client;
	ev->server = server_of(s);
	ev->tls = tls_of(s, tls);
	if (s->auth_by[0] && !ev->mechanism.p) {
		ev->mechanism = span_str(s->auth_by);
		ev->identity = stash_span(&s->auth_name);
	}
	if (!ev->helo.p) {
		ev->helo = sess_helo(s);
		ev->ehlo = s->hello_ehlo;
	}
	if (!t || ev->tid)
		return;
	ev->tid = t->id;
	ev->recipients = t->rcpt_ok;
	ev->bytes = t->bytes;
	ev->sender = span_of(t->from, t->from_n);
	ev->only_rcpt = txn_only_rcpt(t);
}

enum hook_said sess_ask(struct session *s, struct hook_event *ev, struct hook_word *word)
{
	struct hook_tls tls;
	enum hook_said said;

	if (!hook_wanted(&s->core->hooks, s->lis, ev->point))
		return HOOK_PASS;
	fill_event(s, ev, &tls);
	said = hook_ask(&s->core->hooks, &s->seat, s->lis, ev, word);
	if (said == HOOK_NO && word->drop && s->end_when_idle == END_NONE)
		s->end_when_idle = END_HOOK;
	return said;
}

void sess_tell(struct session *s, struct hook_event *ev)
{
	struct hook_tls tls;

	if (!hook_wanted(&s->core->hooks, s->lis, ev->point))
		return;
	fill_event(s, ev, &tls);
	hook_tell(&s->core->hooks, &s->seat, s->lis, ev);
}

void sess_show(struct session *s, struct span data)
{
	struct hook_event ev = {.point = HOOK_BODY, .data = data};
	struct hook_tls tls;

	fill_event(s, &ev, &tls);
	hook_show(&s->core->hooks, &s->seat, s->lis, &ev);
}

void sess_show_stuffed(struct session *s, struct dots *d, struct span data)
{
	while (data.n > 0) {
		struct span run = SPAN_NONE;
		size_t used = dots_strip(d, data, &run);

		if (run.n > 0)
			sess_show(s, run);
		data = span_drop(data, used);
	}
}
