/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Tales for oracle_hooks.c: sessions whose hooks see, change, discard and keep messages, told right
 * and told wrong. The listener has two hooks that keep messages, or two that see them pass by; what
 * they were asked and said is part of the tale.
 */
#include "tests/sim/tale.h"

#include "tests/sim/actor.h"

#define SID 7u
#define TID 9u
#define FROM "MAIL FROM:<c1m1@c1.example>\r\n"
#define TO "RCPT TO:<c1m1r1@dest.example>\r\n"
#define LETTER "Subject: c1m1 one\r\n\r\nc1m1 two\r\n"

/* ---- hooks ---- */

static struct wish *ask_one(struct tale *t, uint32_t place, enum hook_point point)
{
	struct wish *w;

	t->wishes.all = actor_grow(t->wishes.all, t->wishes.n, sizeof(*t->wishes.all));
	w = &t->wishes.all[t->wishes.n++];
	*w = (struct wish){.sid = SID,
		.tid = point < HOOK_MAIL ? 0 : TID,
		.place = place,
		.ev = (uint32_t)t->rec.count,
		.point = point,
		.client = t->rec.socks[t->c].peer};
	if (point == HOOK_MAIL)
		octets_str(&w->mailbox, "c1m1@c1.example");
	if (point == HOOK_RCPT)
		octets_str(&w->mailbox, "c1m1r1@dest.example");
	return w;
}

/* Both pass; the second one's question is returned. */
static struct wish *ask(struct tale *t, enum hook_point point)
{
	ask_one(t, 0, point);
	return ask_one(t, 1, point);
}

static void want(struct wish *w, enum hook_edit_kind kind, uint32_t index, const char *name,
	const char *value)
{
	w->edits = actor_grow(w->edits, w->edit_n, sizeof(*w->edits));
	w->edits[w->edit_n] = (struct wish_edit){.kind = kind, .index = index};
	octets_str(&w->edits[w->edit_n].name, name);
	octets_str(&w->edits[w->edit_n++].value, value);
}

static void show(struct tale *t, uint32_t place, bool asked, const char *octets)
{
	struct wish_shown *s;

	t->wishes.shown = actor_grow(t->wishes.shown, t->wishes.shown_n, sizeof(*t->wishes.shown));
	s = &t->wishes.shown[t->wishes.shown_n++];
	*s = (struct wish_shown){.sid = SID, .tid = TID, .place = place, .asked = asked};
	octets_str(&s->octets, octets);
}

/* An objection, or a discard, with words of its own: " v0". */
static void object(struct tale *t, struct wish *w, enum hook_verdict_kind kind)
{
	w->kind = kind;
	t->verdicts.made = actor_grow(t->verdicts.made, 0, sizeof(*t->verdicts.made));
	t->verdicts.made[0] = (struct verdict_made){.sid = SID,
		.tid = TID,
		.point = (uint8_t)w->point,
		.kind = (uint8_t)kind,
		.ev = (uint32_t)t->rec.count};
	t->verdicts.made_n = 1;
}

/* ---- the usual course ---- */

static void keeping(struct tale *t)
{
	for (uint32_t i = 0; i < 2; i++)
		t->lis.hooks[i].keeps = true;
	t->lis.keeps = true;
}

static void come(struct tale *t)
{
	arrive(t, 1);
	ask(t, HOOK_CONNECT);
	greet(t);
	ask(t, HOOK_EHLO);
	hello(t);
}

/* `from`, `to`: as the upstream is told them. */
static void enveloped(struct tale *t, const char *from, const char *to)
{
	t->from = from;
	t->to = to;
	give(t, FROM);
	pass_command(t, from);
	say(t, SRV_ANSWER, 250, "sender");
	tell_reply(t, last_reply(t));
	give(t, TO);
	pass_command(t, to);
	say(t, SRV_ANSWER, 250, "recipient");
	tell_reply(t, last_reply(t));
}

static void asked_envelope(struct tale *t)
{
	ask(t, HOOK_MAIL);
	ask(t, HOOK_RCPT);
	enveloped(t, FROM, TO);
}

/* The client's, kept whole. */
static void kept(struct tale *t)
{
	keeping(t);
	come(t);
	asked_envelope(t);
	give(t, "DATA\r\n");
	ask(t, HOOK_DATA);
	tell(t, "354 end data with <CR><LF>.<CR><LF>\r\n");
	give(t, LETTER ".\r\n");
}

/* `body`: what goes up, with its end. */
static void sent(struct tale *t, const char *body)
{
	pass_command(t, "DATA\r\n");
	say(t, SRV_ANSWER, 354, "go");
	pass(t, body);
	took(t, body, false);
	say_taken(t);
}

static void told_taken(struct tale *t)
{
	tell_reply(t, last_reply(t));
	logged(t, "ev=transaction result=accepted");
	t->st.messages_accepted++;
	quit(t);
}

static void reset(struct tale *t)
{
	pass_command(t, "RSET\r\n");
	say(t, SRV_ANSWER, 250, "forgotten");
}

/* ---- good tales ---- */

static void tale_kept(struct tale *t)
{
	kept(t);
	show(t, 0, true, LETTER);
	show(t, 1, true, LETTER);
	ask(t, HOOK_END_OF_DATA);
	sent(t, LETTER ".\r\n");
	told_taken(t);
}

/* The first hook wants a field, the second sees it. */
static void changed(struct tale *t, const char *shown, const char *body)
{
	kept(t);
	want(ask_one(t, 0, HOOK_END_OF_DATA), EDIT_HEADER_APPEND, 0, "X-A", " b");
	show(t, 0, true, LETTER);
	show(t, 1, true, shown);
	ask_one(t, 1, HOOK_END_OF_DATA);
	sent(t, body);
	told_taken(t);
}

#define LETTER_A "Subject: c1m1 one\r\nX-A: b\r\n\r\nc1m1 two\r\n"

static void tale_field(struct tale *t)
{
	changed(t, LETTER_A, LETTER_A ".\r\n");
}

static void rewritten(struct tale *t, const char *from)
{
	struct wish *w;

	come(t);
	want(ask_one(t, 0, HOOK_MAIL), EDIT_ADDRESS, 0, "", "new@c1.example");
	w = ask_one(t, 1, HOOK_MAIL);
	w->mailbox.n = 0;
	octets_str(&w->mailbox, "new@c1.example");
	ask(t, HOOK_RCPT);
	enveloped(t, from, TO);
	give(t, "DATA\r\n");
	ask(t, HOOK_DATA);
	pass_command(t, "DATA\r\n");
	say(t, SRV_ANSWER, 354, "go");
	tell_reply(t, last_reply(t));
	give(t, LETTER ".\r\n");
	show(t, 0, true, LETTER);
	show(t, 1, true, LETTER);
	ask(t, HOOK_END_OF_DATA);
	pass(t, LETTER ".\r\n");
	took(t, LETTER ".\r\n", false);
	say_taken(t);
	told_taken(t);
}

static void tale_rewritten(struct tale *t)
{
	rewritten(t, "MAIL FROM:<new@c1.example>\r\n");
}

static void discarded(struct tale *t, bool with_reset)
{
	kept(t);
	object(t, ask(t, HOOK_END_OF_DATA), VERDICT_DISCARD);
	show(t, 0, true, LETTER);
	show(t, 1, true, LETTER);
	if (with_reset)
		reset(t);
	tell(t, "250 2.0.0 " VERDICT_TEXT "0\r\n");
	logged(t, "ev=transaction result=discarded");
	t->st.messages_discarded = 1;
}

static void tale_discarded(struct tale *t)
{
	discarded(t, true);
	quit(t);
}

static void refused(struct tale *t)
{
	kept(t);
	object(t, ask(t, HOOK_END_OF_DATA), VERDICT_REJECT);
	show(t, 0, true, LETTER);
	show(t, 1, true, LETTER);
}

static void tale_refused(struct tale *t)
{
	refused(t);
	reset(t);
	tell(t, "550 5.7.1 " VERDICT_TEXT "0\r\n");
	quit(t);
}

static void deleted(struct tale *t, bool stays)
{
	kept(t);
	want(ask_one(t, 0, HOOK_END_OF_DATA), EDIT_RCPT_DELETE, 0, "", "c1m1r1@dest.example");
	want(&t->wishes.all[t->wishes.n - 1], EDIT_RCPT_ADD, 0, "", "a@new.example");
	ask_one(t, 1, HOOK_END_OF_DATA);
	show(t, 0, true, LETTER);
	show(t, 1, true, LETTER);
	reset(t);
	t->to = stays ? TO : "RCPT TO:<a@new.example>\r\n";
	pass_command(t, FROM);
	say(t, SRV_ANSWER, 250, "sender");
	pass_command(t, t->to);
	say(t, SRV_ANSWER, 250, "recipient");
	sent(t, LETTER ".\r\n");
	told_taken(t);
}

static void tale_recipient(struct tale *t)
{
	deleted(t, false);
}

/* ---- broken ones ---- */

static void tale_sender_without_rset(struct tale *t)
{
	kept(t);
	want(ask_one(t, 0, HOOK_END_OF_DATA), EDIT_SENDER, 0, "", "s@new.example");
	ask_one(t, 1, HOOK_END_OF_DATA);
	show(t, 0, true, LETTER);
	show(t, 1, true, LETTER);
	pass_command(t, "MAIL FROM:<s@new.example>\r\n");
	say(t, SRV_ANSWER, 503, "one message at a time");
	reset(t);
	tell(t, "451 4.3.0 the changed envelope was refused, try again later\r\n");
	quit(t);
}

static void tale_unrecorded(struct tale *t)
{
	tale_kept(t);
	t->log.n = 0;
}

static void tale_change_of_nothing(struct tale *t)
{
	tale_field(t);
	logged(t, "ev=change sid=07 tid=0000000000000000 what=add-header now=X-A");
	t->st.hook_changes = 1;
}

static void tale_recipient_stays(struct tale *t)
{
	deleted(t, true);
}

static void tale_field_missing(struct tale *t)
{
	changed(t, LETTER_A, LETTER ".\r\n");
}

static void tale_field_elsewhere(struct tale *t)
{
	changed(t, LETTER_A, "X-A: b\r\n" LETTER ".\r\n");
}

static void tale_shown_the_original(struct tale *t)
{
	changed(t, LETTER, LETTER_A ".\r\n");
}

static void tale_not_rewritten(struct tale *t)
{
	rewritten(t, FROM);
}

static void tale_octets_twice(struct tale *t)
{
	kept(t);
	show(t, 0, true, LETTER);
	show(t, 1, true, LETTER "c1m1 two\r\n");
	ask(t, HOOK_END_OF_DATA);
	sent(t, LETTER ".\r\n");
	told_taken(t);
}

static void tale_refused_and_taken(struct tale *t)
{
	refused(t);
	sent(t, LETTER ".\r\n");
	told_taken(t);
}

static void tale_discarded_and_taken(struct tale *t)
{
	discarded(t, false);
	sent(t, LETTER ".\r\n");
}

static void tale_before_the_verdict(struct tale *t)
{
	kept(t);
	ask_one(t, 0, HOOK_END_OF_DATA);
	show(t, 0, true, LETTER);
	sent(t, LETTER ".\r\n");
	told_taken(t);
}

static void tale_no_reset(struct tale *t)
{
	discarded(t, false);
	ask(t, HOOK_MAIL);
	give(t, FROM);
	pass_command(t, FROM);
	say(t, SRV_ANSWER, 503, "one message at a time");
	tell_reply(t, last_reply(t));
	quit(t);
}

static void tale_own_ack(struct tale *t)
{
	kept(t);
	ask(t, HOOK_END_OF_DATA);
	show(t, 0, true, LETTER);
	show(t, 1, true, LETTER);
	tell(t, "250 2.0.0 message accepted\r\n");
	quit(t);
}

static void tale_reply_twice(struct tale *t)
{
	refused(t);
	reset(t);
	tell(t, "550 5.7.1 " VERDICT_TEXT "0\r\n");
	tell(t, "550 5.7.1 " VERDICT_TEXT "0\r\n");
	quit(t);
}

static void tale_verdict_of_nobody(struct tale *t)
{
	kept(t);
	ask(t, HOOK_END_OF_DATA);
	reset(t);
	tell(t, "550 5.7.1 " VERDICT_TEXT "3\r\n");
	quit(t);
}

static void tale_upstreams_354(struct tale *t)
{
	keeping(t);
	come(t);
	asked_envelope(t);
	give(t, "DATA\r\n");
	ask(t, HOOK_DATA);
	pass_command(t, "DATA\r\n");
	say(t, SRV_ANSWER, 354, "go");
	tell_reply(t, last_reply(t));
	give(t, LETTER ".\r\n");
}

static void tale_still_held(struct tale *t)
{
	tale_kept(t);
	t->st.held_now = 1;
}

static const struct {
	const char *name;
	void (*tell)(struct tale *t);
	enum invariant want;
} cases[] = {
	{"a message is kept", tale_kept, I_NONE},
	{"a field is added", tale_field, I_NONE},
	{"an address is rewritten", tale_rewritten, I_NONE},
	{"a message is discarded", tale_discarded, I_NONE},
	{"a kept message is refused", tale_refused, I_NONE},
	{"a recipient is exchanged", tale_recipient, I_NONE},
	{"a deleted recipient stays", tale_recipient_stays, I2_COMMIT},
	{"an added field is missing", tale_field_missing, I2_COMMIT},
	{"an added field is elsewhere", tale_field_elsewhere, I2_COMMIT},
	{"the second hook sees the original", tale_shown_the_original, I11_VERDICT},
	{"the upstream is told the old address", tale_not_rewritten, I4_REPLIES},
	{"a hook is shown octets twice", tale_octets_twice, I11_VERDICT},
	{"refused, and taken all the same", tale_refused_and_taken, I11_VERDICT},
	{"discarded, and taken all the same", tale_discarded_and_taken, I2_COMMIT},
	{"the end goes before the verdict", tale_before_the_verdict, I11_VERDICT},
	{"a discarded envelope is left upstream", tale_no_reset, I11_VERDICT},
	{"a kept message is acknowledged by nobody", tale_own_ack, I1_ACK},
	{"two replies to the end of a message", tale_reply_twice, I4_REPLIES},
	{"a verdict that nobody has given", tale_verdict_of_nobody, I11_VERDICT},
	{"the upstream's 354 for a kept message", tale_upstreams_354, I11_VERDICT},
	{"another sender without RSET", tale_sender_without_rset, I11_VERDICT},
	{"a message that was taken is not recorded", tale_unrecorded, I9_COUNTERS},
	{"a change that names no transaction", tale_change_of_nothing, I9_COUNTERS},
	{"a message is still counted as kept", tale_still_held, I9_COUNTERS},
};

static bool judged_right(void (*tell_it)(struct tale *t), enum invariant want, struct verdict *v)
{
	struct tale t = {.us = 1000000};

	record_init(&t.rec);
	t.verdicts.wishes = &t.wishes;
	t.lis = (struct oracle_listener){.recipients_max = 100,
		.errors_max = 20,
		.command_line_max = 4096,
		.pipeline = 250,
		.server_count = 1,
		.shortest_ms = 60000,
		.hooks = {{.asked_at_end = true, .sees = true},
			{.asked_at_end = true, .sees = true}},
		.hook_count = 2};
	tell_it(&t);
	end(&t);
	const struct oracle_in in = {.rec = &t.rec,
		.held_max = 400u << 10,
		.servers = &t.srv,
		.listeners = &t.lis,
		.listener_count = 1,
		.log = octets_span(&t.log),
		.stats = &t.st,
		.verdicts = &t.verdicts,
		.hooked = true};
	oracle_judge(&in, v);
	forget(&t);
	return v->broken == want;
}

int oracle_hook_cases(void)
{
	struct verdict v;
	int bad = 0;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		if (judged_right(cases[i].tell, cases[i].want, &v))
			continue;
		printf("# the oracle of hooks: %s: judged %d, not %d: %s\n", cases[i].name,
			(int)v.broken, (int)cases[i].want, v.text);
		bad++;
	}
	return bad;
}
