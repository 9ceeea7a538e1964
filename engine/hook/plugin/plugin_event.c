/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a plugin is shown: an event of ours in the words of ringpost.h, borrowed from it, or with
 * spans of its own when it has to wait for a thread. Pure: no state, any thread.
 */
#include "engine/hook/plugin/plugin_int.h"

#include "engine/hook/addr.h"
#include "engine/smtp/octets.h"
#include "ring/listen.h"

/* The events of the two headers are the same numbers, and the descriptor's mask is hook.wants. */
#define SAME(point, kind) _Static_assert((int)(point) == (int)(kind), #point)
SAME(HOOK_CONNECT, RINGPOST_CONNECT);
SAME(HOOK_EHLO, RINGPOST_EHLO);
SAME(HOOK_AUTH, RINGPOST_AUTH);
SAME(HOOK_MAIL, RINGPOST_MAIL);
SAME(HOOK_RCPT, RINGPOST_RCPT);
SAME(HOOK_DATA, RINGPOST_DATA);
SAME(HOOK_END_OF_DATA, RINGPOST_END_OF_DATA);
SAME(HOOK_STARTTLS, RINGPOST_STARTTLS);
SAME(HOOK_RESET, RINGPOST_RESET);
SAME(HOOK_TRANSACTION, RINGPOST_TRANSACTION);
SAME(HOOK_CLOSE, RINGPOST_CLOSE);
SAME(HOOK_BODY, RINGPOST_BODY);
SAME(HOOK_ACCEPTED, RINGPOST_ACCEPTED);
SAME(HOOK_REJECTED, RINGPOST_REJECTED);
SAME(HOOK_ABORTED, RINGPOST_ABORTED);
SAME(HOOK_IN_DOUBT, RINGPOST_IN_DOUBT);
SAME(HOOK_CLIENT_GONE, RINGPOST_CLIENT_GONE);
SAME(HOOK_DISCARDED, RINGPOST_DISCARDED);
SAME(RINGPOST_ON_ALL, (1u << HOOK_POINT_COUNT) - 1);

/* ---- addresses ---- */

size_t plugin_client_text(const struct ring_addr *a, char out[PLUGIN_CLIENT_BYTES])
{
	if (a->sa.sa_family != AF_UNIX)
		return hook_addr_text(a, out);
	memcpy(out, "unix:", 5);
	return 5;
}

/* ---- events ---- */

static struct ringpost_span out_span(struct span s)
{
	return (struct ringpost_span){(const char *)s.p, s.n};
}

static void show_tls(struct ringpost_event *ev, const struct hook_tls *tls)
{
	ev->tls_version = out_span(tls->version);
	ev->tls_cipher = out_span(tls->cipher);
	ev->tls_subject = out_span(tls->subject);
	ev->tls_sha256 = out_span(tls->sha256);
	ev->tls_sni = out_span(tls->sni);
	ev->tls_bits = tls->bits;
	ev->tls_verified = tls->verified;
}

void plugin_event(struct ringpost_event *ev, const struct hook_ask *ask, struct plugin_texts *t)
{
	const struct hook_event *from = ask->ev;

	*ev = (struct ringpost_event){.size = sizeof(*ev),
		.kind = (uint32_t)from->point,
		.worker = ask->core->worker,
		.recipients = from->recipients,
		.session = from->sid,
		.transaction = from->tid,
		.listener = out_span(span_str(ask->lis->name)),
		.client = {t->client, plugin_client_text(from->client, t->client)},
		.helo = out_span(from->helo),
		.mechanism = out_span(from->mechanism),
		.bytes = from->bytes,
		.result = from->outcome,
		.code = from->code,
		.client_port = addr_port(from->client),
		.identity = out_span(from->identity),
		.sender = out_span(from->sender),
		.recipient = out_span(from->only_rcpt),
		.data = out_span(from->data),
		.esmtp = from->ehlo};
	if (from->path) {
		ev->address = out_span(from->path->mailbox);
		ev->params = out_span(span_trim(from->path->params));
	}
	if (from->server) {
		ev->server = (struct ringpost_span){
			t->server, plugin_client_text(from->server, t->server)};
		ev->server_port = addr_port(from->server);
	}
	if (from->tls)
		show_tls(ev, from->tls);
}

static const size_t spans[] = {
#define AT(field) offsetof(struct ringpost_event, field)
	AT(listener), AT(client), AT(helo), AT(mechanism), AT(address), AT(params), AT(identity),
	AT(sender), AT(recipient), AT(server), AT(data), AT(tls_version), AT(tls_cipher),
	AT(tls_subject), AT(tls_sha256), AT(tls_sni)
#undef AT
};

static struct ringpost_span *span_at(struct ringpost_event *ev, size_t i)
{
	return (struct ringpost_span *)(void *)((char *)ev + spans[i]);
}

size_t plugin_event_octets(const struct ringpost_event *ev)
{
	struct ringpost_event copy = *ev;
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(spans); i++)
		n += span_at(&copy, i)->size;
	return n;
}

void plugin_event_keep(struct ringpost_event *ev, char *to)
{
	for (size_t i = 0; i < ARRAY_LEN(spans); i++) {
		struct ringpost_span *s = span_at(ev, i);

		if (!to || s->size == 0) {
			*s = (struct ringpost_span){NULL, 0};
			continue;
		}
		memcpy(to, s->data, s->size);
		s->data = to;
		to += s->size;
	}
}
