/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Tales for the oracle's own tests (oracle_cases.c, oracle_hook_cases.c): a record made by hand,
 * one client and its server. A tale is told in steps: the client gives, the link is given, the
 * server says, the client is told; its log and its counters follow from them and can then be
 * falsified.
 */
#ifndef TESTS_SIM_TALE_H
#define TESTS_SIM_TALE_H

#include "tests/sim/oracle.h"
#include "tests/sim/wishes.h"

#include <arpa/inet.h>
#include <stdarg.h>

struct tale {
	struct record rec;
	struct servers srv;
	struct stat_table st;
	struct oracle_listener lis;
	struct octets log;
	uint64_t us;
	uint32_t c, l;		 /* the session's socket, the link's */
	uint32_t cmd_off, cmd_n; /* the last command on the link */
	const char *from, *to;	 /* of its message */
	bool drained, refused;
	struct wishes wishes; /* what its hooks were asked and said; empty: it has none */
	struct verdicts verdicts;
};

/* ---- the record ---- */

static inline void event(struct tale *t, uint32_t sock, enum rec_kind kind, enum ring_res res)
{
	record_event(&t->rec, t->us, sock, kind, res, 0, 0);
}

static inline void octets(struct tale *t, uint32_t sock, enum rec_kind kind, struct span s)
{
	t->us += 1000;
	record_octets(&t->rec, t->us, sock, kind, s);
}

static inline void more(void *array, uint32_t *count, size_t size)
{
	void **p = array;

	*p = realloc(*p, (*count + 1) * size);
	ASSERT(*p);
	memset((char *)*p + *count * size, 0, size);
	++*count;
}

static inline struct srv_conn *conn_of(struct tale *t, uint32_t sock)
{
	for (uint32_t i = 0; i < t->srv.conn_count; i++)
		if (t->srv.conns[i].sock == sock)
			return &t->srv.conns[i];
	ASSERT(false);
	return NULL;
}

static inline struct srv_reply *last_reply(struct tale *t)
{
	return &t->srv.replies[t->srv.reply_count - 1];
}

static inline uint32_t new_sock(struct tale *t, bool dialled, uint32_t who)
{
	uint32_t i = record_sock(&t->rec);
	struct rec_sock *s = &t->rec.socks[i];
	struct sockaddr_in *a = (void *)&s->peer.sa;

	s->dialled = dialled;
	s->who = who;
	s->open = true;
	s->open_us = t->us;
	a->sin_family = AF_INET;
	a->sin_port = htons((uint16_t)(1024 + i));
	a->sin_addr.s_addr = htonl(0x0a010001);
	return i;
}

/* ---- a tale, step by step ---- */

static inline void arrive(struct tale *t, uint32_t who)
{
	t->us += 1000;
	t->c = new_sock(t, false, who);
	event(t, t->c, REC_OPEN, RING_OK);
}

static inline void dial(struct tale *t)
{
	t->us += 1000;
	t->l = new_sock(t, true, 0);
	event(t, t->l, REC_DIAL, RING_OK);
	event(t, t->l, REC_OPEN, RING_OK);
	more(&t->srv.conns, &t->srv.conn_count, sizeof(*t->srv.conns));
	t->srv.conns[t->srv.conn_count - 1].sock = t->l;
	t->srv.conns[t->srv.conn_count - 1].server = 0;
}

static inline void give(struct tale *t, const char *s) /* the client, to the engine */
{
	octets(t, t->c, REC_IN, span_str(s));
}

static inline void pass(struct tale *t, const char *s) /* the engine, to the server */
{
	struct srv_conn *c = conn_of(t, t->l);

	octets(t, t->l, REC_OUT, span_str(s));
	octets_add(&c->read, s, strlen(s));
}

static inline void pass_command(struct tale *t, const char *s)
{
	t->cmd_off = (uint32_t)conn_of(t, t->l)->read.n;
	t->cmd_n = (uint32_t)strlen(s);
	pass(t, s);
}

static inline void tell(struct tale *t, const char *s) /* the engine, to the client */
{
	octets(t, t->c, REC_OUT, span_str(s));
}

/* The server, to the engine: `text` is a line, or several with %s where the mark is due. */
static inline void say(struct tale *t, enum srv_why why, unsigned code, const char *text)
{
	uint32_t conn = (uint32_t)(conn_of(t, t->l) - t->srv.conns), serial = 0;
	char mark[32], line[400];

	for (uint32_t i = 0; i < t->srv.reply_count; i++)
		serial += t->srv.replies[i].conn == conn;
	more(&t->srv.replies, &t->srv.reply_count, sizeof(*t->srv.replies));
	struct srv_reply *r = last_reply(t);
	r->conn = conn;
	r->serial = serial;
	r->code = code;
	r->why = why;
	r->cmd_off = t->cmd_off;
	r->cmd_n = t->cmd_n;
	r->message = UINT32_MAX;
	snprintf(mark, sizeof(mark), " k%u.%u", conn, serial);
	for (const char *p = text; *p; p += strcspn(p, "\n") + 1) {
		int n = (int)strcspn(p, "\n");
		bool last = p[n] == 0 || p[n + 1] == 0, listed = code == 250 && p != text;

		snprintf(line, sizeof(line), "%u%c%.*s%s\r\n", code, last ? ' ' : '-', n, p,
			listed ? "" : mark);
		octets_add(&r->text, line, strlen(line));
		if (p[n] == 0)
			break;
	}
	octets(t, t->l, REC_IN, octets_span(&r->text));
	r->out_end = (uint32_t)t->rec.socks[t->l].in.n;
}

static inline void tell_reply(struct tale *t, const struct srv_reply *r)
{
	octets(t, t->c, REC_OUT, octets_span(&r->text));
}

/* A whole step: the command goes through, its reply comes back. */
static inline void step(struct tale *t, const char *cmd, unsigned code, const char *text)
{
	give(t, cmd);
	pass_command(t, cmd);
	say(t, SRV_ANSWER, code, text);
	tell_reply(t, last_reply(t));
}

static inline void local(struct tale *t, const char *cmd, const char *reply)
{
	give(t, cmd);
	tell(t, reply);
}

static inline void greet(struct tale *t)
{
	dial(t);
	say(t, SRV_GREETING, 220, "hello");
	tell_reply(t, last_reply(t));
}

static inline void hello(struct tale *t)
{
	step(t, "EHLO c1.example\r\n", 250, "server\nPIPELINING\nCHUNKING\n8BITMIME");
}

static inline void begin(struct tale *t)
{
	arrive(t, 1);
	greet(t);
	hello(t);
}

static inline void envelope(struct tale *t)
{
	t->from = "MAIL FROM:<c1m1@c1.example>\r\n";
	t->to = "RCPT TO:<c1m1r1@dest.example>\r\n";
	step(t, t->from, 250, "sender");
	step(t, t->to, 250, "recipient");
}

static inline struct srv_message *took(struct tale *t, const char *body, bool bdat)
{
	more(&t->srv.messages, &t->srv.message_count, sizeof(*t->srv.messages));
	struct srv_message *m = &t->srv.messages[t->srv.message_count - 1];

	m->conn = (uint32_t)(conn_of(t, t->l) - t->srv.conns);
	m->committed = true;
	m->bdat = bdat;
	octets_add(&m->from, t->from, strlen(t->from));
	octets_add(&m->to, t->to, strlen(t->to));
	octets_add(&m->body, body, strlen(body));
	m->end_off = (uint32_t)conn_of(t, t->l)->read.n;
	return m;
}

static inline void say_taken(struct tale *t)
{
	say(t, SRV_FINAL, 250, "taken");
	last_reply(t)->message = t->srv.message_count - 1;
}

static inline void logged(struct tale *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
static inline void logged(struct tale *t, const char *fmt, ...)
{
	char line[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	octets_add(&t->log, line, strlen(line));
	octets_add(&t->log, "\n", 1);
}

static inline void log_transaction(struct tale *t, const char *result, uint64_t *counter)
{
	logged(t, "ev=transaction client=10.1.0.1:%u from=c1m1@c1.example result=%s by=%s",
		1024 + t->c, result, strcmp(result, "accepted") == 0 ? "upstream" : "ringpost");
	t->st.transactions++;
	++*counter;
	if (strcmp(result, "in-doubt") == 0)
		logged(t, "ev=in-doubt client=10.1.0.1:%u from=c1m1@c1.example", 1024 + t->c);
}

#define BODY "c1m1 hello\r\n.\r\n"

static inline void data(struct tale *t)
{
	envelope(t);
	step(t, "DATA\r\n", 354, "go");
}

static inline void message(struct tale *t)
{
	data(t);
	give(t, BODY);
	pass(t, BODY);
	took(t, BODY, false);
	say_taken(t);
	tell_reply(t, last_reply(t));
	log_transaction(t, "accepted", &t->st.messages_accepted);
}

static inline void quit(struct tale *t)
{
	step(t, "QUIT\r\n", 221, "bye");
}

static inline void close_sock(struct tale *t, uint32_t sock)
{
	struct rec_sock *s = &t->rec.socks[sock];

	s->closed = true;
	s->close_us = t->us;
	event(t, sock, REC_CLOSE, RING_OK);
}

/* The link is lost: its server closed it. */
static inline void lose(struct tale *t)
{
	event(t, t->l, REC_FAR_CLOSE, RING_OK);
	t->rec.socks[t->l].far_closed = true;
	t->rec.socks[t->l].in_end = true;
	t->rec.socks[t->l].in_end_res = RING_EOF;
	event(t, t->l, REC_IN_END, RING_EOF);
	close_sock(t, t->l);
}

/* The client sends no more. */
static inline void leave(struct tale *t)
{
	t->rec.socks[t->c].in_end = true;
	t->rec.socks[t->c].in_end_res = RING_EOF;
	event(t, t->c, REC_IN_END, RING_EOF);
}

/* The session is over: what is left open is closed, recorded and counted. */
static inline void end(struct tale *t)
{
	for (uint32_t i = 0; i < t->rec.sock_count; i++) {
		if (!t->rec.socks[i].closed)
			close_sock(t, i);
		t->st.links += t->rec.socks[i].dialled;
		if (t->rec.socks[i].dialled)
			continue;
		t->st.sessions++;
		logged(t, "ev=session client=10.1.0.1:%u helo=c1.example reason=quit%s", 1024 + i,
			t->rec.socks[t->c].veiled ? " tls=TLSv1.3" : "");
	}
}

static inline void good(struct tale *t)
{
	begin(t);
	message(t);
	quit(t);
	end(t);
}

static inline void forget(struct tale *t)
{
	for (uint32_t i = 0; i < t->srv.conn_count; i++)
		octets_free(&t->srv.conns[i].read);
	for (uint32_t i = 0; i < t->srv.reply_count; i++)
		octets_free(&t->srv.replies[i].text);
	for (uint32_t i = 0; i < t->srv.message_count; i++) {
		octets_free(&t->srv.messages[i].from);
		octets_free(&t->srv.messages[i].to);
		octets_free(&t->srv.messages[i].body);
	}
	free(t->srv.conns);
	free(t->srv.replies);
	free(t->srv.messages);
	octets_free(&t->log);
	wishes_free(&t->wishes);
	free(t->verdicts.made);
	record_free(&t->rec);
}

#endif
