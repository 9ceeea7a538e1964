/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Client -> upstream: the commands of mail transactions. A handler passes the line on, as it was
 * written or as hooks have changed it, or refuses it in its place, or says LATER (command.c).
 *
 * What is refused here never reaches the upstream, and what follows is judged by what the upstream
 * was told, not by what the client asked for: a RCPT behind a refused MAIL meets 503 here.
 */
#include "engine/session/command.h"

#include "engine/smtp/octets.h"

enum outcome mail_on_rset(struct session *s, const struct command *c)
{
	cmd_tell(s, HOOK_RESET);
	if ((!s->link && !s->bound) || secure_hello_due(s)) {
		queue_local(s, &sess_replies[REPLY_DONE]);
	} else if (cmd_pass(s, c, SLOT_COMMAND, false) == LATER) {
		return LATER;
	}
	txn_leave(s, "rset");
	return DONE;
}

static enum reply_id path_reply(enum path_res res, bool rcpt)
{
	if (res == PATH_BAD_PARAM)
		return REPLY_BAD_PARAM;
	return rcpt ? REPLY_BAD_RECIPIENT : REPLY_BAD_SENDER;
}

/* Why this MAIL is refused here; REPLY_COUNT: it is not. */
static enum reply_id mail_objection(struct session *s, struct span args, struct smtp_path *path)
{
	struct smtp_mail_params par;
	struct span bad;
	enum path_res res = smtp_path_parse(args, false, path);
	uint64_t max = hold_message_max(s);

	if (res != PATH_OK)
		return path_reply(res, false);
	if (!smtp_mail_params(path->params, &par, &bad))
		return REPLY_BAD_PARAM;
	if (max && par.has_size && par.size > max) {
		STAT_INC(s->core->stats, size_refused);
		return REPLY_TOO_BIG;
	}
	return REPLY_COUNT;
}

/* The transaction's, before it is there: hooks are asked about it first. */
static uint64_t mail_id(struct session *s)
{
	if (!s->mail_id)
		s->mail_id = s->core->next_id++;
	return s->mail_id;
}

/* The hooks have passed it, and the link is there. */
static enum outcome begin_mail(struct session *s, const struct command *c, struct smtp_path *path)
{
	bool nested = s->txn != NULL;
	struct span line = c->raw;
	const struct local_reply *no;
	struct txn *t;

	if (!change_path(s, false, &line, path))
		return cmd_refuse(s, REPLY_CHANGED_LONG);
	t = txn_new(s, path);
	if (!t)
		return cmd_refuse(s, REPLY_NO_TXN);
	no = cmd_note_wishes(s, t);
	if (no) {
		txn_reject(t, "mail", NULL, no, true);
		txn_unref(t);
		queue_local(s, no);
		return DONE;
	}
	t->nested = nested;
	if (hold_wanted(s) && !env_add(&t->env, ENV_MAIL, line)) {
		txn_unref(t);
		return cmd_refuse(s, REPLY_NO_TXN);
	}
	cmd_pass_line(s, line, SLOT_MAIL, nested, t);
	if (nested)
		txn_unref(t);
	else
		s->txn = t;
	return DONE;
}

enum outcome mail_on_mail(struct session *s, const struct command *c)
{
	struct smtp_path path;
	bool nested = s->txn != NULL;
	enum reply_id no;
	const struct local_reply *refused;

	/* While the fate of an open transaction is not known, neither is what this MAIL means. */
	if (nested && s->q_count > 0)
		return LATER;
	no = mail_objection(s, c->cmd.args, &path);
	if (no != REPLY_COUNT)
		return no == REPLY_TOO_BIG ? cmd_refuse(s, no) : cmd_refuse_bad(s, no);
	if (!cmd_ask(s, (struct hook_event){.point = HOOK_MAIL, .tid = mail_id(s), .path = &path},
		    &refused))
		return LATER;
	if (refused) {
		queue_local(s, refused);
		return DONE;
	}
	return sess_need_link(s) ? begin_mail(s, c, &path) : LATER;
}

enum outcome mail_on_rcpt(struct session *s, const struct command *c)
{
	struct txn *t = s->txn;
	struct smtp_path path;
	struct span bad;
	const struct local_reply *refused;
	struct span line = c->raw;
	enum path_res res;

	/* Behind the first chunk of a message that nobody is to get there may be no link any more.
	 */
	if (!t || (t->discard && t->body_begun))
		return cmd_refuse(s, REPLY_NEED_MAIL);
	if (t->refused) {
		queue_local(s, t->refused);
		return DONE;
	}
	res = smtp_path_parse(c->cmd.args, true, &path);
	if (res != PATH_OK)
		return cmd_refuse_bad(s, path_reply(res, true));
	if (!smtp_rcpt_params(path.params, &bad))
		return cmd_refuse_bad(s, REPLY_BAD_PARAM);
	if (t->rcpt_ok + t->rcpt_pending >= s->lis->limits.recipients) {
		STAT_INC(s->core->stats, limit_recipients);
		return cmd_refuse(s, REPLY_MANY_RCPT);
	}
	if (!cmd_ask(s, (struct hook_event){.point = HOOK_RCPT, .path = &path}, &refused))
		return LATER;
	if (!refused && !change_path(s, true, &line, &path))
		refused = &sess_replies[REPLY_CHANGED_LONG];
	if (!refused)
		refused = cmd_note_wishes(s, t);
	if (!refused && hold_wanted(s) && !env_add(&t->env, ENV_ASKED, line))
		refused = &sess_replies[REPLY_NO_TXN];
	if (refused) {
		txn_rcpt_refused(t, &path);
		t->rcpt_local++;
		if (t->rcpt_ok == 0)
			txn_reject(t, "rcpt", NULL, refused, false);
		queue_local(s, refused);
		return DONE;
	}
	cmd_pass_line(s, line, SLOT_RCPT, false, t);
	txn_rcpt_asked(t, &path);
	return DONE;
}

/* A server that does not know BDAT would read the octets of a chunk as commands. */
static bool chunking_shown(const struct session *s)
{
	return caps_has(&s->caps, EXT_CHUNKING) && s->lis->ehlo.policy[EXT_CHUNKING] != EXT_STRIP;
}

/* Why no body can come now; NULL: it can. A transaction that is not refused has its link: losing
 * the link refuses it. */
static const struct local_reply *body_objection(struct session *s, bool chunk)
{
	struct txn *t = s->txn;

	if (chunk && !chunking_shown(s))
		return &sess_replies[REPLY_REFUSED_VERB];
	if (!t)
		return &sess_replies[REPLY_NEED_MAIL];
	if (t->refused)
		return t->refused;
	if (!chunk && t->chunked)
		return &sess_replies[REPLY_NOT_BOTH];
	if (t->rcpt_ok + t->rcpt_pending + t->rcpt_failed == 0)
		return &sess_replies[t->rcpt_local ? REPLY_NO_RCPT : REPLY_NEED_RCPT];
	return NULL;
}

/* Who asks the client for the message itself must know that somebody is to get it. False: the line
 * waits; *no: nobody is. */
static bool recipients_known(struct session *s, const struct local_reply **no)
{
	if (s->q_upstream > 0)
		return false;
	if (s->txn->rcpt_ok == 0)
		*no = &sess_replies[REPLY_NO_RCPT];
	return true;
}

static const struct local_reply *note_data_wishes(struct session *s, struct txn *t)
{
	size_t before = t->headers.len;
	const struct local_reply *no = cmd_note_wishes(s, t);

	t->data_fields += t->headers.len - before;
	return no;
}

enum outcome mail_on_data(struct session *s, const struct command *c)
{
	const struct local_reply *no = body_objection(s, false);

	if (no) {
		queue_local(s, no);
		return DONE;
	}
	if (!cmd_ask(s, (struct hook_event){.point = HOOK_DATA}, &no))
		return LATER;
	if (!no)
		no = note_data_wishes(s, s->txn);
	if (!no && (s->txn->discard || hold_wanted(s)) && !recipients_known(s, &no))
		return LATER;
	if (!no && !s->txn->discard && hold_wanted(s) && !hold_begin(s, true))
		no = hold_no_room(s);
	if (no) {
		txn_reject(s->txn, "data", NULL, no, false);
		change_data_undone(s, s->txn);
		queue_local(s, no);
		return DONE;
	}
	s->txn->stage = "data";
	if (s->txn->discard)
		body_discard(s);
	else if (s->txn->held)
		body_keep(s);
	else
		cmd_pass_now(s, c, SLOT_DATA, true, s->txn);
	return DONE;
}

/* A message that is refused between its chunks: the upstream forgets it, the link stays. */
static void take_back_chunks(struct session *s, const struct local_reply *r)
{
	s->txn->refused = r;
	hold_drop(s->txn);
	txn_reject(s->txn, "body", NULL, r, true);
	sess_reset_upstream(s);
}

static bool shown(const struct session *s)
{
	return hook_wanted(&s->core->hooks, s->lis, HOOK_BODY);
}

/* Why this chunk ends the message, as cmd_ask(). A hook's verdict on the end of the data comes
 * before the last chunk leaves. */
static bool chunk_objection(
	struct session *s, uint64_t size, bool last, const struct local_reply **no)
{
	uint64_t max = hold_message_max(s);

	/* Fields that hooks put on top are part of the first chunk. */
	if (size + s->txn->headers.len > SMTP_BDAT_BYTES_MAX ||
		(max && (size > max || s->txn->bytes > max - size))) {
		STAT_INC(s->core->stats, size_refused);
		*no = &sess_replies[REPLY_TOO_BIG];
		return true;
	}
	if (!s->txn->chunked && !cmd_ask(s, (struct hook_event){.point = HOOK_DATA}, no))
		return false;
	if (!*no)
		*no = cmd_note_wishes(s, s->txn);
	if (*no)
		return true;
	if (s->txn->discard || hold_wanted(s))
		return recipients_known(s, no);
	/* Who wants to see it is asked when it is here. */
	if (!last || shown(s))
		return true;
	if (!cmd_ask(s, (struct hook_event){.point = HOOK_END_OF_DATA}, no))
		return false;
	s->txn->discard = s->discard;
	return *no || !s->discard || recipients_known(s, no);
}

static void begin_chunks(struct session *s)
{
	s->txn->stage = "body";
	s->txn->chunked = s->txn->body_begun = true;
	if (!s->txn->body_us)
		s->txn->body_us = ring_now_us(s->core->ring);
}

/* Header fields of hooks are the beginning of the first chunk. The last one is not called the last
 * when its end is to wait for the hooks that see it: "BDAT 0 LAST" follows then. */
static void pass_chunk_line(struct session *s, const struct command *c, uint64_t size, bool last)
{
	bool part = last && shown(s);
	enum slot_kind kind = part ? SLOT_PART : last ? SLOT_FINAL : SLOT_CHUNK;
	struct stash *headers = &s->txn->headers;
	char line[64];
	int n;

	s->chunk_part = part;
	if (headers->len == 0 && !part) {
		cmd_pass_now(s, c, kind, false, s->txn);
		return;
	}
	last = last && !part;
	n = snprintf(line, sizeof(line), "BDAT %llu%s\r\n",
		(unsigned long long)(size + headers->len), last ? " LAST" : "");
	stream_put(&s->link->st, span_of(line, (size_t)n));
	if (headers->len > 0)
		stream_put(&s->link->st, stash_span(headers));
	queue_upstream(s, kind, false, s->txn);
	stash_clear(headers, &s->core->stashes);
}

static void pass_chunk(struct session *s, const struct command *c, uint64_t size, bool last)
{
	pass_chunk_line(s, c, size, last);
	queue_hold_tail(s);
	s->chunk_last = last;
	begin_chunks(s);
	chunk_begin(s, size, BODY_PASS, NULL);
}

/* Its octets are answered when they are here, like those that somebody takes. */
static void keep_chunk(struct session *s, uint64_t size, bool last)
{
	s->chunk_last = last;
	begin_chunks(s);
	chunk_begin(s, size, BODY_KEEP, last ? NULL : &sess_replies[REPLY_CHUNK]);
}

static void discard_chunk(struct session *s, uint64_t size, bool last)
{
	s->chunk_last = last;
	begin_chunks(s);
	s->txn->bytes += size;
	chunk_begin(s, size, BODY_SWALLOW, last ? s->txn->discard : &sess_replies[REPLY_CHUNK]);
}

enum outcome mail_on_bdat(struct session *s, const struct command *c)
{
	uint64_t size;
	bool last;
	const struct local_reply *no;

	/* Exim knows a verb by the space behind it and would read the octets behind a tab as
	 * commands. */
	if (memchr(c->raw.p, '\t', c->raw.n) || !smtp_bdat_parse(c->cmd.args, &size, &last)) {
		STAT_INC(s->core->stats, commands_bad);
		queue_local(s, &sess_replies[REPLY_BAD_BDAT]);
		s->end_when_idle = END_BAD_BDAT;
		return DONE;
	}
	no = secure_objection(s, c->cmd.verb);
	if (!no)
		no = body_objection(s, true);
	if (!no) {
		if (!chunk_objection(s, size, last, &no))
			return LATER;
		if (!no && !s->txn->discard && hold_wanted(s) && !s->txn->held &&
			!hold_begin(s, false))
			no = hold_no_room(s);
		if (no)
			take_back_chunks(s, no);
		/* Nothing of the message is to come any more. */
		if (no && last)
			txn_leave(s, NULL);
	}
	STAT_INC(s->core->stats, bdat_chunks);
	if (no) {
		queue_local(s, no);
		if (s->end_when_idle == END_HOOK)
			return DONE; /* its octets are read no more */
		s->chunk_last = false;
		chunk_begin(s, size, BODY_SWALLOW, NULL);
	} else if (s->txn->discard) {
		discard_chunk(s, size, last);
	} else if (s->txn->held) {
		keep_chunk(s, size, last);
	} else {
		pass_chunk(s, c, size, last);
	}
	return DONE;
}
