/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A hook that is a milter: the filter of another process, spoken to as Sendmail and Postfix speak
 * to theirs (milter_wire.h). The map of the four files is in milter_int.h; here events come in and
 * answers go out.
 *
 * One connection per mail session, opened when the client comes, and again at the next MAIL if it
 * was lost between messages: CONNECT and HELO are repeated on it, and what the filter says to them
 * counts at that MAIL.
 *
 * Failure modes: no connection to be had, or not in time; a filter that hangs up, answers late,
 * breaks the protocol or wants what the mode does not have: the question fails (`on-failure`), and
 * so do the message's other questions. The next message tries again.
 */
#include "engine/hook/milter/milter_int.h"

#include <unistd.h>

/* ---- the hook ---- */

static enum milter_mode mode_of(enum conf_hook_mode mode)
{
	switch (mode) {
	case HOOK_STREAM:
		return MILTER_STREAM;
	case HOOK_HOLD_END:
		return MILTER_HOLD_END;
	default:
		return MILTER_HOLD_ALL;
	}
}

static bool milter_open(struct hook *h, char *why, size_t why_max)
{
	struct milter *m = calloc(1, sizeof(*m));

	if (!m) {
		snprintf(why, why_max, "no memory");
		return false;
	}
	m->offer = milter_offer_for(mode_of(h->conf->mode));
	if (gethostname(m->host, sizeof(m->host) - 1) != 0)
		snprintf(m->host, sizeof(m->host), "localhost");
	h->self = m;
	h->wants = 1u << HOOK_CONNECT | 1u << HOOK_EHLO | 1u << HOOK_MAIL | 1u << HOOK_RCPT |
		   1u << HOOK_DATA | 1u << HOOK_STARTTLS | 1u << HOOK_RESET |
		   1u << HOOK_TRANSACTION | 1u << HOOK_CLOSE;
	if (h->conf->mode != HOOK_STREAM)
		h->wants |= 1u << HOOK_BODY | 1u << HOOK_END_OF_DATA;
	return true;
}

static void milter_close(struct hook *h)
{
	free(h->self);
}

static bool milter_begin(struct hook *h, struct hook_core *c, void **share)
{
	struct milter_share *sh = calloc(1, sizeof(*sh));

	if (!sh)
		return false;
	*share = sh;
	sh->h = h;
	sh->core = c;
	list_init(&sh->waiting);
	list_init(&sh->open);
	return slab_init(&sh->sessions, "milter sessions", sizeof(struct milter_session),
		       c->sessions_max) &&
	       slab_init(&sh->conns, "milter connections", sizeof(struct milter_conn),
		       h->conf->connections);
}

static bool milter_wind_up(struct hook *h, void *share)
{
	return milter_conns_close(share);
}

static void milter_end(struct hook *h, void *share)
{
	struct milter_share *sh = share;

	if (!sh)
		return;
	slab_fini(&sh->conns);
	slab_fini(&sh->sessions);
	free(sh);
}

/* ---- a session ---- */

static void room_again(struct deferred *d)
{
	struct milter_session *s = CONTAINER_OF(d, struct milter_session, room);

	hook_set_full(s->share->core, s->seat, false);
}

/* NULL: no room. */
static struct milter_session *session_of(struct hook *h, const struct hook_ask *ask)
{
	struct milter_share *sh = hook_share(h, ask->core);
	void **own = hook_own(h, ask);
	struct milter_session *s;

	if (!own || *own)
		return own ? *own : NULL;
	s = slab_get(&sh->sessions);
	if (!s)
		return NULL;
	memset(s, 0, sizeof(*s));
	s->share = sh;
	s->seat = ask->seat;
	s->lis = ask->lis;
	list_init(&s->waiting);
	deferred_init(&s->room, room_again);
	*own = s;
	return s;
}

static bool keep(struct milter_session *s, enum milter_word w, struct span value)
{
	struct milter_buf *b = &s->words[w];

	b->at = b->n = 0;
	return milter_buf_add(b, value);
}

/* Filters put it into header fields. */
static bool keep_printable(struct milter_session *s, enum milter_word w, struct span value)
{
	struct milter_buf *b = &s->words[w];

	if (!keep(s, w, value))
		return false;
	for (size_t i = b->at; i < b->n; i++)
		if (b->p[i] < 0x20 || b->p[i] > 0x7e)
			b->p[i] = '?';
	return true;
}

/* Sendmail's words. */
static const char *verify_word(const struct hook_tls *tls, const struct conf_listener *lis)
{
	if (tls->verified)
		return "OK";
	if (tls->certified)
		return "FAIL";
	return lis->tls.client_cert == TLS_CLIENT_NONE ? "NOT" : "NO";
}

/* The name in a certificate that nobody vouches for is told to no filter, as by Postfix: it would
 * be taken for who the client is. */
static bool keep_tls(struct milter_session *s, const struct hook_tls *tls)
{
	static const struct hook_tls clear;
	const struct hook_tls *t = tls ? tls : &clear;

	s->tls_bits = t->bits;
	s->tls_verify = tls ? verify_word(tls, s->lis) : NULL;
	return keep(s, WORD_TLS_VERSION, t->version) && keep(s, WORD_TLS_CIPHER, t->cipher) &&
	       keep_printable(s, WORD_TLS_SUBJECT, t->verified ? t->subject : SPAN_NONE);
}

static bool keep_session(struct milter_session *s, const struct hook_event *ev)
{
	if (ev->client)
		s->client = *ev->client;
	if (ev->server)
		s->server = *ev->server;
	return keep(s, WORD_HELO, ev->helo) && keep(s, WORD_MECHANISM, ev->mechanism) &&
	       keep(s, WORD_IDENTITY, ev->identity) && keep_tls(s, ev->tls);
}

/* ---- questions ----
 * Each says what the filter has to hear of, or has an answer already. */

static enum milter_question at_connect(struct milter_session *s, const struct hook_event *ev)
{
	milter_part(s, true);
	return keep_session(s, ev) && milter_seek(s) ? QUESTION_OPEN : QUESTION_FAILED;
}

static enum milter_question at_ehlo(struct milter_session *s, const struct hook_event *ev)
{
	milter_message_over(s);
	if (!keep(s, WORD_HELO, ev->helo) || !keep_tls(s, ev->tls))
		return QUESTION_FAILED;
	/* Without a connection: MAIL makes one, and says it there. */
	if (!s->conn)
		return QUESTION_ANSWERED;
	s->owed |= MILTER_OWES(MILTER_AT_HELO);
	return QUESTION_OPEN;
}

static enum milter_question at_mail(struct milter_session *s, const struct hook_event *ev)
{
	milter_message_over(s);
	s->tid = ev->tid;
	s->message = MESSAGE_FAILED;
	if (!keep_session(s, ev) || !keep(s, WORD_SENDER, ev->path->mailbox) ||
		!keep(s, WORD_SENDER_PARAMS, ev->path->params))
		return QUESTION_FAILED;
	s->words[WORD_RCPT].at = s->words[WORD_RCPT].n = 0;
	if (!s->conn && !milter_seek(s))
		return QUESTION_FAILED;
	STAT_INC(s->share->core->stats, milter_messages);
	s->message = MESSAGE_OPEN;
	s->owed |= MILTER_OWES(MILTER_AT_MAIL);
	return QUESTION_OPEN;
}

/* What a message's other questions have in common. */
static enum milter_question known_already(const struct milter_session *s)
{
	switch (s->message) {
	case MESSAGE_OPEN:
		return QUESTION_OPEN;
	case MESSAGE_FAILED:
		return QUESTION_FAILED;
	default:
		return QUESTION_ANSWERED;
	}
}

static enum milter_question at_rcpt(struct milter_session *s, const struct hook_event *ev)
{
	enum milter_question q = known_already(s);

	if (q != QUESTION_OPEN)
		return q;
	/* libmilter takes no recipient behind DATA and gives no answer to it. */
	if (s->data_told) {
		milter_fail(s, "a recipient behind DATA, which no filter understands");
		return QUESTION_FAILED;
	}
	if (!keep(s, WORD_RCPT, ev->path->mailbox) || !keep(s, WORD_RCPT_PARAMS, ev->path->params))
		return QUESTION_FAILED;
	s->owed |= MILTER_OWES(MILTER_AT_RCPT);
	return QUESTION_OPEN;
}

static enum milter_question at_data(struct milter_session *s, const struct hook_event *ev)
{
	enum milter_question q = known_already(s);

	/* The upstream has refused DATA and the client says it again: the filter has let it pass.
	 */
	if (q == QUESTION_OPEN && !s->data_told)
		s->owed |= MILTER_OWES(MILTER_AT_DATA);
	return q;
}

static enum milter_question at_end(struct milter_session *s, const struct hook_event *ev)
{
	enum milter_question q = known_already(s);

	if (q == QUESTION_OPEN)
		milter_content_end(s);
	return q;
}

static enum hook_reach reach(
	struct milter_session *s, const struct hook_ask *ask, struct hook_verdict *v)
{
	enum milter_question q = s->question;
	struct hook_token token;

	if (q == QUESTION_OPEN) {
		if (hook_suspend(s->share->h, ask, &token)) {
			s->call = ask->seat->call;
			s->call->own = s;
			return REACH_PENDING;
		}
		milter_fail(s, "no room for another open question");
		q = QUESTION_FAILED;
	}
	s->question = QUESTION_NONE;
	if (q == QUESTION_FAILED)
		return REACH_FAILED;
	*v = s->verdict;
	s->verdict.edits = NULL;
	return REACH_ANSWERED;
}

static enum hook_reach milter_ask(
	struct hook *h, const struct hook_ask *ask, struct hook_verdict *v)
{
	static enum milter_question (*const begin[])(
		struct milter_session *, const struct hook_event *) = {
		[HOOK_CONNECT] = at_connect,
		[HOOK_EHLO] = at_ehlo,
		[HOOK_MAIL] = at_mail,
		[HOOK_RCPT] = at_rcpt,
		[HOOK_DATA] = at_data,
		[HOOK_END_OF_DATA] = at_end,
	};
	struct milter_session *s = session_of(h, ask);

	if (!s)
		return REACH_FAILED;
	ASSERT(s->question == QUESTION_NONE);
	if (s->decided)
		return REACH_ANSWERED;
	s->point = ask->ev->point;
	if (s->message != MESSAGE_JUDGED || s->point == HOOK_MAIL || s->point == HOOK_EHLO)
		memset(&s->verdict, 0, sizeof(s->verdict));
	s->question = QUESTION_OPEN;
	enum milter_question q = begin[s->point](s, ask->ev);
	/* Else milter_fail() has said so already. */
	if (s->question == QUESTION_OPEN)
		s->question = q;
	if (s->question == QUESTION_OPEN)
		milter_go_on(s);
	return reach(s, ask, v);
}

/* ---- news ---- */

static void hear_no_more(struct milter_session *s)
{
	milter_part(s, true);
	s->decided = true;
}

static void milter_tell(struct hook *h, const struct hook_ask *ask)
{
	void **own = ask->seat->own ? hook_own(h, ask) : NULL;
	struct milter_session *s = own ? *own : NULL;
	const struct hook_event *ev = ask->ev;

	if (!s)
		return;
	s->point = ev->point;
	switch (ev->point) {
	case HOOK_BODY:
		if (s->message != MESSAGE_OPEN)
			return;
		milter_content_add(s, ev->data);
		milter_go_on(s);
		break;
	case HOOK_TRANSACTION:
		/* The next message may have begun. */
		if (ev->tid == s->tid)
			milter_message_over(s);
		break;
	case HOOK_RESET:
		milter_message_over(s);
		break;
	case HOOK_STARTTLS:
		milter_message_over(s);
		/* Behind ours the session goes on, from its EHLO; behind the upstream's nothing
		 * will be asked any more. */
		if (ask->lis->starttls == STARTTLS_PASSTHROUGH)
			hear_no_more(s);
		else
			s->decided =
				false; /* by a hello that does not count any more (RFC 3207 4.2) */
		break;
	default: /* CLOSE */
		milter_message_over(s);
		hear_no_more(s);
		break;
	}
}

static void milter_forget(struct hook *h, struct hook_call *call)
{
	struct milter_session *s = call->own;

	s->call = NULL;
	s->question = QUESTION_NONE;
	if (s->message == MESSAGE_OPEN)
		s->message = MESSAGE_FAILED;
	/* An answer that still comes would be taken for that of the next step. */
	milter_part(s, false);
	milter_content_drop(s);
	s->owed = 0;
}

static void milter_leave(struct hook *h, struct hook_core *c, void *own)
{
	struct milter_session *s = own;

	milter_message_over(s);
	milter_part(s, true);
	list_remove(&s->room.node);
	for (size_t i = 0; i < WORD_COUNT; i++)
		milter_buf_free(&s->words[i]);
	slab_put(&s->share->sessions, s);
}

const struct hook_class hook_milter_class = {
	.may_wait = true,
	.open = milter_open,
	.close = milter_close,
	.begin = milter_begin,
	.wind_up = milter_wind_up,
	.end = milter_end,
	.ask = milter_ask,
	.tell = milter_tell,
	.forget = milter_forget,
	.leave = milter_leave,
};
