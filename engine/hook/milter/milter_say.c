/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a filter says: to our offer, and to each step. An answer to a step lets the session go on,
 * or decides about it: a recipient, the message, the whole session. What the filter says of a
 * message while no question is open is kept until one is (`verdict`, MESSAGE_JUDGED).
 *
 * Changes that were not agreed on are left out, and counted.
 *
 * Failure modes: an answer that nobody waits for, or that does not fit its step; a change that is
 * none (edits.h); more of a body than there may be of a message: the filter has failed, as if it
 * had hung up.
 */
#include "engine/hook/milter/milter_int.h"

#include "engine/hook/ringpost.h"

#define LINE_MAX 128

/* ---- the negotiation ---- */

static const char *mode_word(enum conf_hook_mode mode)
{
	return mode == HOOK_STREAM ? "stream" : mode == HOOK_HOLD_END ? "hold-end" : "hold-all";
}

/* rspamd asks for all there is, whatever it was offered. It is taken at our word: what it changes
 * and the mode cannot do is left out. Filters on libmilter hang up instead when they need it. */
static void less_actions(struct milter_session *s, struct milter_optneg *answer, uint32_t refused)
{
	char line[LINE_MAX];

	answer->actions &= ~refused;
	if (s->share->told)
		return;
	s->share->told = true;
	snprintf(line, sizeof(line),
		"connect: the filter asks for %s, which mode %s does not have: it will be left out",
		milter_action_name(refused), mode_word(s->share->h->conf->mode));
	hook_log(s->share->h, RINGPOST_LOG_WARN, line);
}

static void refuse(struct milter_session *s, enum milter_neg_res res,
	const struct milter_optneg *answer, uint32_t refused)
{
	char line[LINE_MAX];

	if (res == MILTER_NEG_PROTOCOL)
		snprintf(line, sizeof(line),
			"the filter wants %s (protocol bits 0x%x), which was not offered",
			milter_protocol_name(refused), refused);
	else
		snprintf(line, sizeof(line),
			"the filter speaks version %u of the protocol; %u to %u are known here",
			answer->version, MILTER_VERSION_MIN, MILTER_VERSION);
	milter_fail(s, line);
}

/* The lists outlive the packet. */
static bool keep_lists(struct milter_conn *k, const struct milter_optneg *answer)
{
	size_t at[MILTER_STAGE_COUNT];

	for (size_t i = 0; i < MILTER_STAGE_COUNT; i++) {
		at[i] = k->lists.n;
		if (!milter_buf_add(&k->lists, answer->macros[i]))
			return false;
	}
	for (size_t i = 0; i < MILTER_STAGE_COUNT; i++)
		if (answer->macros[i].p)
			k->macros[i] = answer->macros[i].n > 0
					       ? span_of(k->lists.p + at[i], answer->macros[i].n)
					       : SPAN_LIT("");
	return true;
}

void milter_take_optneg(struct milter_session *s, const struct milter_packet *p)
{
	const struct milter *m = s->share->h->self;
	struct milter_conn *k = s->conn;
	struct milter_optneg answer;
	enum milter_res res = milter_optneg_parse(p, &answer);
	enum milter_neg_res neg;
	char line[LINE_MAX];
	uint32_t refused;

	if (res != MILTER_OK) {
		snprintf(line, sizeof(line),
			"the filter breaks the protocol in the negotiation: %s",
			milter_res_text(res));
		milter_fail(s, line);
		return;
	}
	neg = milter_negotiate(&m->offer, &answer, &k->neg, &refused);
	if (neg == MILTER_NEG_ACTION) {
		less_actions(s, &answer, refused);
		neg = milter_negotiate(&m->offer, &answer, &k->neg, &refused);
	}
	if (neg != MILTER_NEG_OK) {
		refuse(s, neg, &answer, refused);
		return;
	}
	if (!keep_lists(k, &answer)) {
		milter_fail(s, "no memory for what the filter says");
		return;
	}
	k->waits = false;
	k->state = MILTER_UP;
}

/* ---- decisions ---- */

/* The filter is done with the session: it goes on without, or ends. */
static void session_over(struct milter_session *s)
{
	milter_part(s, true);
	milter_content_drop(s);
	s->owed = 0;
	s->decided = true;
	s->message = MESSAGE_NONE;
	s->question = s->question == QUESTION_OPEN ? QUESTION_ANSWERED : s->question;
}

/* The message is decided; `verdict` has what is to be said if that is no pass. */
static void message_is(struct milter_session *s, enum milter_message now)
{
	milter_content_drop(s);
	s->owed = 0;
	s->message = now;
	if (s->question == QUESTION_OPEN)
		s->question = QUESTION_ANSWERED;
}

static void accepted(struct milter_session *s, enum milter_step step)
{
	if (step <= MILTER_AT_HELO)
		session_over(s);
	else
		message_is(s, MESSAGE_PASSES);
}

/* s->verdict refuses. */
static void refused(struct milter_session *s, enum milter_step step)
{
	switch (step) {
	case MILTER_AT_CONNECT:
	case MILTER_AT_HELO:
		/* Said again at MAIL: the next message has it said once more. A filter that has
		 * refused the client wants to hear no more of it. */
		if (step == MILTER_AT_CONNECT || s->point == HOOK_MAIL)
			milter_part(s, true);
		message_is(s, MESSAGE_NONE);
		break;
	case MILTER_AT_RCPT:
		s->owed = 0;
		if (s->verdict.kind == VERDICT_DISCARD)
			s->message = MESSAGE_JUDGED;
		s->question = QUESTION_ANSWERED;
		break;
	default:
		message_is(s, MESSAGE_JUDGED);
		break;
	}
}

static void say(struct milter_session *s, enum hook_verdict_kind kind, uint32_t code,
	const char *enhanced, const char *text)
{
	s->verdict = (struct hook_verdict){.kind = kind};
	hook_verdict_words(&s->verdict, code, enhanced, text);
}

/* Our replies have one line. */
static void say_code(struct milter_session *s, const struct milter_code *c)
{
	enum hook_verdict_kind kind = c->code == 421	   ? VERDICT_DROP
				      : c->code / 100 == 5 ? VERDICT_REJECT
							   : VERDICT_TEMPFAIL;
	struct span rest = c->raw;
	struct milter_line line;
	char text[HOOK_TEXT_MAX], enhanced[16] = "";
	size_t n = 0, max = sizeof(text) - 1;

	while (milter_line_next(&rest, &line)) {
		if (n > 0 && n < max)
			text[n++] = ' ';
		size_t all = milter_unescape(line.text, (uint8_t *)text + n, max - n);
		n += MIN_OF(all, max - n);
		if (enhanced[0] == '\0')
			snprintf(enhanced, sizeof(enhanced), "%.*s", (int)line.enhanced.n,
				(const char *)line.enhanced.p);
	}
	text[n] = '\0';
	say(s, kind, c->code, enhanced, text);
}

/* ---- the end of the body ---- */

static void log_quarantine(struct milter_session *s, const char *becomes)
{
	char line[LINE_MAX + MILTER_REASON_MAX];

	STAT_INC(s->share->core->stats, milter_quarantined);
	snprintf(line, sizeof(line), "quarantine of %016llx, %s: %s", (unsigned long long)s->tid,
		becomes, s->reason);
	hook_log(s->share->h, RINGPOST_LOG_WARN, line);
}

/* The message passes as far as the filter is concerned, but it is to be put aside: there is no such
 * place here. */
static void quarantine(struct milter_session *s)
{
	static const struct {
		enum hook_verdict_kind kind;
		uint16_t code;
		const char *enhanced, *text, *becomes;
	} rows[] = {
		[QUARANTINE_REJECT] = {VERDICT_REJECT, 554, "5.7.1", "message content rejected",
			"rejected"},
		[QUARANTINE_TEMPFAIL] = {VERDICT_TEMPFAIL, 451, "4.7.1",
			"message content not accepted now", "refused for now"},
		[QUARANTINE_DISCARD] = {VERDICT_DISCARD, 0, NULL, NULL, "discarded"},
		[QUARANTINE_ACCEPT] = {VERDICT_PASS, 0, NULL, NULL, "accepted"},
	};
	enum conf_quarantine q = s->share->h->conf->quarantine;

	log_quarantine(s, rows[q].becomes);
	if (rows[q].kind != VERDICT_PASS)
		say(s, rows[q].kind, rows[q].code, rows[q].enhanced, rows[q].text);
}

/* The last answer of a message. */
static void message_done(struct milter_session *s)
{
	if (s->verdict.kind != VERDICT_PASS && s->quarantined)
		log_quarantine(s, "refused by the filter as well");
	else if (s->quarantined)
		quarantine(s);
	if (s->verdict.kind == VERDICT_PASS) {
		s->verdict.edits = s->edits;
		s->edits = NULL;
	}
	hook_edits_free(s->edits);
	s->edits = NULL;
	s->quarantined = false;
	s->new_body_bytes = 0;
	s->data_told = false;
	message_is(s, MESSAGE_NONE);
}

static bool add_edit(struct milter_session *s, enum hook_edit_kind kind, uint32_t index,
	struct span name, struct span value)
{
	/* Behind all fields, for filters, is any number; a message has fewer than that. */
	const struct hook_edit e = {.kind = kind,
		.index = MIN_OF(index, HOOK_EDIT_INDEX_MAX),
		.name = name,
		.value = value};

	return hook_edits_add(&s->edits, &e, kind == EDIT_RCPT_ADD);
}

/* With the blank behind the colon, which the filter has left to us if that was not agreed on. */
static bool add_field(
	struct milter_session *s, enum hook_edit_kind kind, const struct milter_field *f)
{
	struct milter_buf value = {0};
	bool done;

	if (milter_keeps_space(&s->conn->neg))
		return add_edit(s, kind, f->index, f->name, f->value);
	done = milter_buf_add(&value, SPAN_LIT(" ")) && milter_buf_add(&value, f->value) &&
	       add_edit(s, kind, f->index, f->name, milter_buf_span(&value));
	milter_buf_free(&value);
	return done;
}

static bool add_body(struct milter_session *s, struct span piece)
{
	s->new_body_bytes += piece.n;
	return s->new_body_bytes <= s->share->h->set->conf->hold.message &&
	       add_edit(s, EDIT_BODY, 0, SPAN_NONE, piece);
}

static bool change(struct milter_session *s, const struct milter_reply *r)
{
	const struct milter_address *a = &r->address;
	const struct milter_field *f = &r->field;

	switch (r->kind) {
	case MILTER_R_ADDRCPT:
	case MILTER_R_ADDRCPT_PAR:
		return add_edit(s, EDIT_RCPT_ADD, 0, a->params, a->mailbox);
	case MILTER_R_DELRCPT:
		return add_edit(s, EDIT_RCPT_DELETE, 0, SPAN_NONE, a->mailbox);
	case MILTER_R_CHGFROM:
		return add_edit(s, EDIT_SENDER, 0, a->params, a->mailbox);
	case MILTER_R_ADDHEADER:
		return add_field(s, EDIT_HEADER_APPEND, f);
	case MILTER_R_INSHEADER:
		return add_field(s, EDIT_HEADER_INSERT, f);
	case MILTER_R_CHGHEADER:
		if (f->value.n == 0)
			return add_edit(s, EDIT_HEADER_DELETE, f->index, f->name, SPAN_NONE);
		return add_field(s, EDIT_HEADER_CHANGE, f);
	case MILTER_R_REPLBODY:
		return add_body(s, r->body);
	default: /* MILTER_R_QUARANTINE */
		s->quarantined = true;
		snprintf(s->reason, sizeof(s->reason), "%.*s", (int)r->reason.n,
			(const char *)r->reason.p);
		return true;
	}
}

/* ---- answers ---- */

/* s->verdict, set by the answer, decides; at the end of the body it is the last word. */
static void objects(struct milter_session *s, enum milter_step step)
{
	if (step == MILTER_AT_EOB)
		message_done(s);
	else if (s->verdict.kind == VERDICT_DROP && s->question == QUESTION_OPEN)
		session_over(s);
	else
		refused(s, step);
}

static void answered(struct milter_session *s, enum milter_step step, const struct milter_reply *r)
{
	switch (r->kind) {
	case MILTER_R_CONTINUE:
		if (step == MILTER_AT_EOB)
			message_done(s);
		return;
	case MILTER_R_SKIP: /* it has seen enough of the body */
		s->owed &= ~MILTER_OWES(MILTER_AT_BODY);
		milter_buf_free(&s->content.body);
		return;
	case MILTER_R_ACCEPT:
		if (step == MILTER_AT_EOB)
			message_done(s);
		else
			accepted(s, step);
		return;
	case MILTER_R_CONNFAIL:
		milter_fail(s, "the filter says that it has failed");
		return;
	case MILTER_R_SHUTDOWN:
		say(s, VERDICT_DROP, 0, NULL, NULL);
		break;
	case MILTER_R_REJECT:
		say(s, VERDICT_REJECT, 0, NULL, NULL);
		break;
	case MILTER_R_TEMPFAIL:
		say(s, VERDICT_TEMPFAIL, 0, NULL, NULL);
		break;
	case MILTER_R_DISCARD:
		say(s, VERDICT_DISCARD, 0, NULL, NULL);
		break;
	default: /* MILTER_R_CODE */
		say_code(s, &r->code);
		break;
	}
	objects(s, step);
}

static void bad_reply(struct milter_session *s, const struct milter_packet *p, const char *what)
{
	const struct milter_conn *k = s->conn;
	char line[LINE_MAX];

	snprintf(line, sizeof(line), "the filter breaks the protocol at %s: %s: %s",
		k->waits ? milter_step_name(k->step) : "no step", milter_reply_name(p->kind), what);
	if (s->question == QUESTION_OPEN || s->message == MESSAGE_OPEN)
		milter_fail(s, line);
	else
		milter_part(s, false);
}

void milter_take(struct milter_session *s, const struct milter_packet *p)
{
	struct milter_conn *k = s->conn;
	struct milter_reply r;
	enum milter_res res = milter_reply_parse(p, &r);

	if (res == MILTER_OK)
		res = k->waits ? milter_reply_check(&k->neg, k->step, r.kind) : MILTER_UNEXPECTED;
	if (res == MILTER_NOT_AGREED) {
		STAT_INC(s->share->core->stats, milter_left_out);
		return;
	}
	if (res != MILTER_OK) {
		bad_reply(s, p, milter_res_text(res));
		return;
	}
	/* Behind it the filter has its time anew; milter_go_on() sees to it. */
	if (!k->st.broken)
		timer_stop(s->share->core->timers, &k->timer);
	if (milter_reply_final(r.kind)) {
		k->waits = false;
		answered(s, k->step, &r);
	} else if (r.kind == MILTER_R_PROGRESS) {
		if (s->call)
			hook_extend(s->call);
	} else if (!change(s, &r)) {
		bad_reply(s, p, "a change that cannot be made");
	}
}
