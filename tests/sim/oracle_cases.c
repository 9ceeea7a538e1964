/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The oracle's own test: tales made by hand (tale.h), told right and told wrong. A good tale must
 * be judged good; each broken one breaks one promise, and the oracle must name that invariant.
 * Those of sessions whose hooks change messages are in oracle_hook_cases.c.
 */
#include "tests/sim/tale.h"

/* ---- good tales ---- */

static void tale_good(struct tale *t)
{
	good(t);
}

static void tale_two_clients(struct tale *t)
{
	good(t);
	t->st.sessions = t->st.links = 0;
	t->log.n = 0;
	logged(t, "ev=transaction client=10.1.0.1:1024 from=c1m1@c1.example result=accepted "
		  "by=upstream");
	arrive(t, 2);
	greet(t);
	step(t, "NOOP c2m1\r\n", 250, "nothing");
	quit(t);
	end(t);
}

static void tale_local_refusals(struct tale *t)
{
	begin(t);
	local(t, "XCLIENT a=b\r\n", "502 5.5.1 command not implemented\r\n");
	local(t, "RCPT TO:<c1m1r1@dest.example>\r\n", "503 5.5.1 need MAIL first\r\n");
	local(t, "NOOP\n", "500 5.5.2 lines end with CR LF\r\n");
	local(t, "MAIL FROM:<a\r\n", "501 5.1.7 bad sender address syntax\r\n");
	message(t);
	quit(t);
	end(t);
}

static void tale_rule(struct tale *t)
{
	begin(t);
	local(t, "MAIL FROM:<bad@bad.example>\r\n", "550 5.7.1 no thanks\r\n");
	local(t, "DATA\r\n", "503 5.5.1 need MAIL first\r\n");
	t->st.rule_rejects = 1;
	quit(t);
	end(t);
}

static void tale_replaced_link(struct tale *t)
{
	begin(t);
	lose(t);
	give(t, "NOOP c1m1\r\n");
	dial(t);
	say(t, SRV_GREETING, 220, "hello");
	pass_command(t, "EHLO c1.example\r\n");
	say(t, SRV_ANSWER, 250, "server\nPIPELINING\nCHUNKING\n8BITMIME");
	pass_command(t, "NOOP c1m1\r\n");
	say(t, SRV_ANSWER, 250, "nothing");
	tell_reply(t, last_reply(t));
	quit(t);
	end(t);
}

static void in_doubt(struct tale *t)
{
	begin(t);
	data(t);
	give(t, BODY);
	pass(t, BODY);
	lose(t);
	tell(t, "451 4.4.2 upstream gave no final reply, try again later\r\n");
	local(t, "QUIT\r\n", "221 2.0.0 bye\r\n");
}

static void tale_in_doubt(struct tale *t)
{
	in_doubt(t);
	log_transaction(t, "in-doubt", &t->st.messages_in_doubt);
	end(t);
}

static void tale_lookalike_refused(struct tale *t)
{
	begin(t);
	data(t);
	give(t, "c1m1\n.\nrest\r\n.\r\n");
	pass(t, "c1m1\n.");
	close_sock(t, t->l);
	tell(t, "550 5.5.2 line ends in the message are not CR LF, refused\r\n");
	t->st.smuggling_refused = 1;
	log_transaction(t, "rejected", &t->st.messages_rejected);
	local(t, "QUIT\r\n", "221 2.0.0 bye\r\n");
	end(t);
}

static void tale_chunks(struct tale *t)
{
	begin(t);
	envelope(t);
	give(t, "BDAT 5\r\nc1m1 BDAT 3 LAST\r\nxyz");
	pass_command(t, "BDAT 5\r\n");
	pass(t, "c1m1 ");
	say(t, SRV_ANSWER, 250, "chunk");
	tell_reply(t, last_reply(t));
	pass_command(t, "BDAT 3 LAST\r\n");
	pass(t, "xyz");
	took(t, "c1m1 xyz", true);
	say_taken(t);
	tell_reply(t, last_reply(t));
	log_transaction(t, "accepted", &t->st.messages_accepted);
	quit(t);
	end(t);
}

static void tale_opaque(struct tale *t)
{
	t->lis.starttls_passed = true;
	begin(t);
	step(t, "STARTTLS\r\n", 220, "go");
	give(t, "\x16\x03\x01");
	pass(t, "\x16\x03\x01");
	t->st.starttls_passed = 1;
	end(t);
}

/* The server refuses a chunk and takes the next one all the same. */
static void tale_chunk_refused(struct tale *t)
{
	begin(t);
	envelope(t);
	give(t, "BDAT 5\r\nc1m1 ");
	pass_command(t, "BDAT 5\r\n");
	pass(t, "c1m1 ");
	say(t, SRV_ANSWER, 503, "not now");
	tell_reply(t, last_reply(t));
	give(t, "BDAT 3 LAST\r\nxyz");
	pass_command(t, "BDAT 3 LAST\r\n");
	pass(t, "xyz");
	took(t, "xyz", true);
	say_taken(t);
	tell_reply(t, last_reply(t));
	log_transaction(t, "accepted", &t->st.messages_accepted);
	quit(t);
	end(t);
}

/* What the server says to `*` is for nobody; when it says nothing, its link is lost. */
static void tale_mute_behind_star(struct tale *t)
{
	static char text[12300];

	memset(text, 'x', sizeof(text) - 3);
	memcpy(text + sizeof(text) - 3, "\r\n", 2);
	begin(t);
	step(t, "AUTH LOGIN\r\n", 334, "VXNlcg==");
	give(t, text);
	pass(t, "*\r\n");
	tell(t, "500 5.5.6 authentication exchange line too long\r\n");
	t->us += 61 * 1000000;
	close_sock(t, t->l);
	local(t, "QUIT\r\n", "221 2.0.0 bye\r\n");
	end(t);
}

#define SILENT "421 4.4.2 timeout, closing connection\r\n"

/* What waits in a send was said when the send began. */
static void tale_late_send(struct tale *t)
{
	begin(t);
	give(t, "NO");
	t->us += 70 * 1000000;
	record_event(&t->rec, t->us, t->c, REC_OFFER, RING_OK, (uint32_t)t->rec.socks[t->c].out.n,
		sizeof(SILENT) - 1);
	give(t, "OP\r\n");
	tell(t, SILENT);
	end(t);
}

/* The limit is for the whole line. */
static void tale_slow_line(struct tale *t)
{
	begin(t);
	t->us += 59 * 1000000;
	give(t, "RSET\r");
	t->us += 2 * 1000000;
	tell(t, SILENT);
	end(t);
}

static void tale_unreadable_mail(struct tale *t)
{
	begin(t);
	local(t, "MAIL FROM:<a b> SIZE=1\r\n", "501 5.5.4 bad parameter\r\n");
	local(t, "MAIL FROM:<a b> SIZE=1\r\n", "501 5.1.7 bad sender address syntax\r\n");
	quit(t);
	end(t);
}

/* Only 250 accepts a hello: what was shown before still holds. */
static void tale_hello_not_250(struct tale *t)
{
	begin(t);
	step(t, "EHLO c1.example\r\n", 221, "surprise");
	envelope(t);
	give(t, "BDAT 5 LAST\r\nc1m1 ");
	pass_command(t, "BDAT 5 LAST\r\n");
	pass(t, "c1m1 ");
	took(t, "c1m1 ", true);
	say_taken(t);
	tell_reply(t, last_reply(t));
	log_transaction(t, "accepted", &t->st.messages_accepted);
	quit(t);
	end(t);
}

static void tale_bdat_no_line(struct tale *t)
{
	begin(t);
	give(t, "BDAT 8 LAST\x1b\r\nNOOP 1\r\n");
	tell(t, "500 5.5.2 control octets in a command\r\n");
	pass_command(t, "NOOP 1\r\n");
	say(t, SRV_ANSWER, 250, "nothing");
	tell_reply(t, last_reply(t));
	quit(t);
	end(t);
}

static void tale_half_closed(struct tale *t)
{
	begin(t);
	give(t, "NOOP 1\r\nNOOP 2\r\n");
	leave(t);
	for (int i = 1; i <= 2; i++) {
		pass_command(t, i == 1 ? "NOOP 1\r\n" : "NOOP 2\r\n");
		say(t, SRV_ANSWER, 250, "nothing");
		tell_reply(t, last_reply(t));
	}
	end(t);
}

/* Ringpost's own RSET is not the one that the client said last, which nobody answered: what was
 * passed on the next link came between them. */
static void tale_reset_before_a_loss(struct tale *t)
{
	static const char mail[] = "MAIL FROM:<c1m2@c1.example>\r\n";

	t->lis.message_max = 4;
	begin(t);
	envelope(t);
	give(t, "BDAT 5\r\nc1m1 ");
	tell(t, "552 5.3.4 message size exceeds the limit\r\n");
	pass_command(t, "RSET\r\n");
	lose(t);
	local(t, "RSET\r\n", "250 2.0.0 ok\r\n");
	give(t, mail);
	dial(t);
	say(t, SRV_GREETING, 220, "hello");
	pass_command(t, "EHLO c1.example\r\n");
	say(t, SRV_ANSWER, 250, "server\nPIPELINING\nCHUNKING\n8BITMIME");
	pass_command(t, mail);
	lose(t);
	tell(t, "451 4.4.2 upstream connection lost, try again later\r\n");
	give(t, "RSET\r\n");
	leave(t);
	t->rec.socks[t->c].in_end_res = RING_RESET; /* nobody is there to be told */
	t->st.size_refused = 1;
	logged(t, "ev=transaction client=10.1.0.1:1024 from=c1m1@c1.example result=rejected "
		  "by=ringpost");
	logged(t, "ev=transaction client=10.1.0.1:1024 from=c1m2@c1.example result=aborted "
		  "by=ringpost");
	t->st.transactions = 2;
	t->st.messages_rejected = t->st.messages_aborted = 1;
	end(t);
}

/* ---- I1, I2, I3 ---- */

static void tale_invented_250(struct tale *t)
{
	begin(t);
	data(t);
	give(t, BODY);
	pass(t, BODY);
	lose(t);
	tell(t, "250 2.0.0 ok\r\n");
	end(t);
}

static void tale_not_taken(struct tale *t)
{
	good(t);
	t->srv.messages[0].committed = false;
}

static void tale_dropped_tail(struct tale *t)
{
	begin(t);
	data(t);
	give(t, "c1m1 hello\r\nc1m1 again\r\n.\r\n");
	pass(t, "c1m1 hello\r\n.\r\n");
	took(t, "c1m1 hello\r\n.\r\n", false);
	say_taken(t);
	tell_reply(t, last_reply(t));
	log_transaction(t, "accepted", &t->st.messages_accepted);
	quit(t);
	end(t);
}

static void tale_taken_without_end(struct tale *t)
{
	begin(t);
	data(t);
	give(t, "c1m1 hel");
	pass(t, "c1m1 hel");
	took(t, "c1m1 hel", false);
	leave(t);
	end(t);
}

static void tale_taken_with_other_recipient(struct tale *t)
{
	good(t);
	octets_add(&t->srv.messages[0].to, "RCPT TO:<x@y.example>\r\n", 23);
}

static void tale_smuggled(struct tale *t)
{
	begin(t);
	data(t);
	give(t, "c1m1\n.\nMAIL FROM:<c1m2@c1.example>\r\n.\r\n");
	pass(t, "c1m1\n.\nMAIL FROM:<c1m2@c1.example>\r\n.\r\n");
	took(t, "c1m1\n.\nMAIL FROM:<c1m2@c1.example>\r\n.\r\n", false);
	say_taken(t);
	tell_reply(t, last_reply(t));
	end(t);
}

static void tale_taken_twice(struct tale *t)
{
	good(t);
	more(&t->srv.messages, &t->srv.message_count, sizeof(*t->srv.messages));
	struct srv_message *m = &t->srv.messages[1];
	*m = t->srv.messages[0];
	m->from = m->to = m->body = (struct octets){0};
	octets_add(&m->from, t->from, strlen(t->from));
	octets_add(&m->to, t->to, strlen(t->to));
	octets_add(&m->body, BODY, strlen(BODY));
}

/* ---- I4 ---- */

static void tale_replies_swapped(struct tale *t)
{
	begin(t);
	give(t, "NOOP 1\r\nNOOP 2\r\n");
	pass_command(t, "NOOP 1\r\n");
	say(t, SRV_ANSWER, 250, "one");
	pass_command(t, "NOOP 2\r\n");
	say(t, SRV_ANSWER, 250, "two");
	tell_reply(t, &t->srv.replies[3]);
	tell_reply(t, &t->srv.replies[2]);
	end(t);
}

static void tale_reply_missing(struct tale *t)
{
	begin(t);
	give(t, "NOOP 1\r\n");
	pass_command(t, "NOOP 1\r\n");
	say(t, SRV_ANSWER, 250, "one");
	quit(t);
	end(t);
}

static void tale_last_reply_missing(struct tale *t)
{
	begin(t);
	give(t, "NOOP 1\r\n");
	pass_command(t, "NOOP 1\r\n");
	say(t, SRV_ANSWER, 250, "one");
	end(t);
}

static void tale_reply_doubled(struct tale *t)
{
	begin(t);
	step(t, "NOOP 1\r\n", 250, "one");
	tell_reply(t, last_reply(t));
	end(t);
}

static void tale_half_a_reply(struct tale *t)
{
	begin(t);
	give(t, "VRFY 1\r\n");
	pass_command(t, "VRFY 1\r\n");
	say(t, SRV_ANSWER, 550, "one\ntwo");
	tell(t, "550 one k0.2\r\n");
	quit(t);
	end(t);
}

static void tale_cut_reply(struct tale *t)
{
	begin(t);
	give(t, "VRFY 1\r\n");
	pass_command(t, "VRFY 1\r\n");
	say(t, SRV_ANSWER, 550, "one\ntwo");
	tell(t, "550-one k0.2\r\n55");
	end(t);
}

static void tale_reply_too_early(struct tale *t)
{
	begin(t);
	give(t, "NOOP 1");
	pass_command(t, "NOOP 1\r\n");
	say(t, SRV_ANSWER, 250, "one");
	tell_reply(t, last_reply(t));
	give(t, "\r\n");
	quit(t);
	end(t);
}

static void tale_451_without_cause(struct tale *t)
{
	begin(t);
	local(t, "NOOP\r\n", "451 4.4.2 upstream connection lost, try again later\r\n");
	quit(t);
	end(t);
}

static void tale_421_without_cause(struct tale *t)
{
	begin(t);
	tell(t, "421 4.4.2 timeout, closing connection\r\n");
	end(t);
}

static void tale_421_behind_a_reply(struct tale *t)
{
	begin(t);
	t->us += 59 * 1000000;
	step(t, "NOOP 1\r\n", 250, "nothing");
	t->us += 2 * 1000000;
	tell(t, SILENT);
	end(t);
}

static void tale_421_to_a_whole_line(struct tale *t)
{
	begin(t);
	t->us += 70 * 1000000;
	local(t, "NOOP\r\n", SILENT);
	end(t);
}

static void tale_readable_mail_refused(struct tale *t)
{
	begin(t);
	local(t, "MAIL FROM:<c1m1@c1.example>\r\n", "501 5.5.4 bad parameter\r\n");
	quit(t);
	end(t);
}

static void tale_bdat_no_line_501(struct tale *t)
{
	begin(t);
	local(t, "BDAT 8 LAST\x1b\r\n",
		"501 5.5.4 syntax: BDAT count [LAST]; closing connection\r\n");
	end(t);
}

static void tale_503_without_cause(struct tale *t)
{
	begin(t);
	step(t, "MAIL FROM:<c1m1@c1.example>\r\n", 250, "sender");
	local(t, "RCPT TO:<c1m1r1@dest.example>\r\n", "503 5.5.1 need MAIL first\r\n");
	quit(t);
	end(t);
}

static void tale_behind_the_end(struct tale *t)
{
	begin(t);
	quit(t);
	tell(t, "250 2.0.0 ok\r\n");
	end(t);
}

static void tale_keyword_not_stripped(struct tale *t)
{
	arrive(t, 1);
	greet(t);
	step(t, "EHLO c1.example\r\n", 250, "server\nPIPELINING\nXCLIENT NAME");
	quit(t);
	end(t);
}

static void tale_no_hello_again(struct tale *t)
{
	begin(t);
	lose(t);
	give(t, "NOOP c1m1\r\n");
	dial(t);
	say(t, SRV_GREETING, 220, "hello");
	pass_command(t, "NOOP c1m1\r\n");
	say(t, SRV_ANSWER, 250, "nothing");
	tell_reply(t, last_reply(t));
	quit(t);
	end(t);
}

static void tale_without_a_word(struct tale *t)
{
	begin(t);
	end(t);
}

static void tale_passed_twice(struct tale *t)
{
	begin(t);
	give(t, "NOOP 1\r\n");
	pass(t, "NOOP 1\r\n");
	pass_command(t, "NOOP 1\r\n");
	say(t, SRV_ANSWER, 250, "one");
	tell_reply(t, last_reply(t));
	quit(t);
	end(t);
}

/* ---- I5, I6 ---- */

static void tale_other_body(struct tale *t)
{
	begin(t);
	data(t);
	give(t, BODY);
	pass(t, "c2m7 hello\r\n.\r\n");
	took(t, "c2m7 hello\r\n.\r\n", false);
	say_taken(t);
	tell_reply(t, last_reply(t));
	end(t);
}

static void tale_other_reply(struct tale *t)
{
	begin(t);
	step(t, "NOOP 1\r\n", 250, "one");
	arrive(t, 2);
	greet(t);
	give(t, "NOOP 1\r\n");
	pass_command(t, "NOOP 1\r\n");
	tell_reply(t, &t->srv.replies[2]);
	end(t);
}

static void tale_held(struct tale *t)
{
	static char big[600000];

	begin(t);
	data(t);
	memset(big, 'x', sizeof(big) - 6);
	memcpy(big + sizeof(big) - 6, "\r\n.\r\n", 6);
	give(t, big);
	pass(t, big);
	took(t, big, false);
	say_taken(t);
	tell_reply(t, last_reply(t));
	log_transaction(t, "accepted", &t->st.messages_accepted);
	quit(t);
	end(t);
}

/* ---- I9, I10 ---- */

static void tale_counter_off(struct tale *t)
{
	good(t);
	t->st.messages_accepted++;
}

static void tale_session_left(struct tale *t)
{
	good(t);
	t->st.sessions_now = 1;
}

static void tale_no_record(struct tale *t)
{
	good(t);
	t->log.n = 0;
	logged(t, "ev=session client=10.1.0.1:1024");
	t->st.transactions = t->st.messages_accepted = 0;
}

static void tale_doubt_missing(struct tale *t)
{
	in_doubt(t);
	log_transaction(t, "aborted", &t->st.messages_aborted);
	end(t);
}

static void tale_doubt_invented(struct tale *t)
{
	begin(t);
	data(t);
	give(t, "c1m1 hello");
	pass(t, "c1m1 hello");
	lose(t);
	give(t, "\r\n.\r\n");
	tell(t, "451 4.4.2 upstream connection lost, try again later\r\n");
	log_transaction(t, "in-doubt", &t->st.messages_in_doubt);
	local(t, "QUIT\r\n", "221 2.0.0 bye\r\n");
	end(t);
}

/* ---- I11, I12 ---- */

static void tale_rcpt_behind_refused_mail(struct tale *t)
{
	begin(t);
	local(t, "MAIL FROM:<bad@bad.example>\r\n", "550 5.7.1 no thanks\r\n");
	step(t, "RCPT TO:<c1m1r1@dest.example>\r\n", 250, "recipient");
	quit(t);
	end(t);
}

static void tale_rule_word_passed(struct tale *t)
{
	begin(t);
	step(t, "MAIL FROM:<bad@bad.example>\r\n", 250, "sender");
	quit(t);
	end(t);
}

static void tale_refused_and_passed(struct tale *t)
{
	begin(t);
	give(t, "XCLIENT a=b\r\n");
	pass(t, "XCLIENT a=b\r\n");
	tell(t, "502 5.5.1 command not implemented\r\n");
	quit(t);
	end(t);
}

static void tale_verb_passed(struct tale *t)
{
	begin(t);
	step(t, "TURN\r\n", 250, "turned");
	quit(t);
	end(t);
}

static void tale_plain_behind_starttls(struct tale *t)
{
	t->lis.starttls_passed = true;
	begin(t);
	give(t, "STARTTLS\r\nNOOP c1m1\r\n");
	pass_command(t, "STARTTLS\r\n");
	say(t, SRV_ANSWER, 220, "go");
	tell_reply(t, last_reply(t));
	pass(t, "NOOP c1m1\r\n");
	t->st.starttls_passed = 1;
	end(t);
}

static void tale_reply_behind_220(struct tale *t)
{
	t->lis.starttls_passed = true;
	begin(t);
	give(t, "STARTTLS\r\n");
	pass_command(t, "STARTTLS\r\n");
	say(t, SRV_ANSWER, 220, "go\n");
	struct srv_reply *r = last_reply(t);
	struct rec_event *e = &t->rec.events[t->rec.count - 1];
	octets_add(&t->rec.socks[t->l].in, "250 x\r\n", 7);
	e->n += 7;
	tell_reply(t, r);
	tell(t, "250 x\r\n");
	t->st.starttls_passed = 1;
	end(t);
}

/* ---- TLS on the client's leg ---- */

#define READY "220 2.0.0 ready to start TLS\r\n"

/* The server's list, with a line of ringpost's own at its end. */
static void hello_in_clear(struct tale *t)
{
	struct octets shown = {0};

	give(t, "EHLO c1.example\r\n");
	pass_command(t, "EHLO c1.example\r\n");
	say(t, SRV_ANSWER, 250, "server\nPIPELINING\nCHUNKING\n8BITMIME");
	octets_add(&shown, last_reply(t)->text.p, last_reply(t)->text.n);
	uint8_t *last = memmem(shown.p, shown.n, "250 8BITMIME", 12);
	last[3] = '-';
	octets_add(&shown, "250 STARTTLS\r\n", 15);
	tell(t, (const char *)shown.p);
	octets_free(&shown);
}

static void begin_in_clear(struct tale *t)
{
	t->lis.tls = SIM_STARTTLS;
	t->lis.tls_required = true;
	arrive(t, 1);
	greet(t);
	hello_in_clear(t);
}

static void secure(struct tale *t)
{
	local(t, "STARTTLS\r\n", READY);
	t->rec.socks[t->c].veiled = true;
}

static void tale_starttls(struct tale *t)
{
	begin_in_clear(t);
	local(t, "MAIL FROM:<c1m1@c1.example>\r\n",
		"530 5.7.0 must issue a STARTTLS command first\r\n");
	secure(t);
	local(t, "MAIL FROM:<c1m1@c1.example>\r\n", "503 5.5.1 EHLO first\r\n");
	hello(t);
	local(t, "STARTTLS\r\n", "503 5.5.1 TLS is in use already\r\n");
	message(t);
	quit(t);
	end(t);
}

static void tale_mail_in_clear(struct tale *t)
{
	begin_in_clear(t);
	envelope(t);
	quit(t);
	end(t);
}

static void tale_auth_in_clear(struct tale *t)
{
	begin_in_clear(t);
	t->lis.tls_required = false;
	step(t, "AUTH PLAIN YWJj\r\n", 235, "welcome");
	quit(t);
	end(t);
}

static void tale_hello_kept(struct tale *t)
{
	begin_in_clear(t);
	secure(t);
	envelope(t);
	quit(t);
	end(t);
}

static void tale_starttls_not_shown(struct tale *t)
{
	t->lis.tls = SIM_STARTTLS;
	begin(t);
	quit(t);
	end(t);
}

static void tale_starttls_in_tls(struct tale *t)
{
	begin_in_clear(t);
	secure(t);
	hello_in_clear(t);
	quit(t);
	end(t);
}

static void tale_starttls_twice(struct tale *t)
{
	begin_in_clear(t);
	secure(t);
	hello(t);
	local(t, "STARTTLS\r\n", READY);
	quit(t);
	end(t);
}

/* ---- all of them ---- */

static const struct {
	const char *name;
	void (*tell)(struct tale *t);
	enum invariant want;
} cases[] = {
	{"a session with a message", tale_good, I_NONE},
	{"two clients", tale_two_clients, I_NONE},
	{"ringpost's own refusals", tale_local_refusals, I_NONE},
	{"a rule", tale_rule, I_NONE},
	{"a link that is replaced", tale_replaced_link, I_NONE},
	{"a message in doubt", tale_in_doubt, I_NONE},
	{"a lookalike that is refused", tale_lookalike_refused, I_NONE},
	{"chunks", tale_chunks, I_NONE},
	{"opaque behind STARTTLS", tale_opaque, I_NONE},
	{"a chunk that the server refused", tale_chunk_refused, I_NONE},
	{"nothing is said to the end of AUTH", tale_mute_behind_star, I_NONE},
	{"a reply that waits in its send", tale_late_send, I_NONE},
	{"a line that takes too long", tale_slow_line, I_NONE},
	{"a MAIL that cannot be read", tale_unreadable_mail, I_NONE},
	{"a hello that is answered 221", tale_hello_not_250, I_NONE},
	{"BDAT that is no command line", tale_bdat_no_line, I_NONE},
	{"half closed", tale_half_closed, I_NONE},
	{"RSET of ringpost's own before a loss", tale_reset_before_a_loss, I_NONE},
	{"250 of ringpost's own to a message", tale_invented_250, I1_ACK},
	{"250, but not taken", tale_not_taken, I1_ACK},
	{"the tail of a body is dropped", tale_dropped_tail, I1_ACK},
	{"taken without its end", tale_taken_without_end, I2_COMMIT},
	{"taken for a recipient nobody gave", tale_taken_with_other_recipient, I2_COMMIT},
	{"taken twice", tale_taken_twice, I3_ONCE},
	{"two replies swapped", tale_replies_swapped, I4_REPLIES},
	{"a reply is missing", tale_reply_missing, I4_REPLIES},
	{"the last reply is missing", tale_last_reply_missing, I4_REPLIES},
	{"a reply twice", tale_reply_doubled, I4_REPLIES},
	{"half of the lines of a reply", tale_half_a_reply, I4_REPLIES},
	{"a reply that is cut", tale_cut_reply, I4_REPLIES},
	{"a reply before the command is complete", tale_reply_too_early, I4_REPLIES},
	{"451 without a cause", tale_451_without_cause, I4_REPLIES},
	{"421 without a cause", tale_421_without_cause, I4_REPLIES},
	{"421 soon behind a reply", tale_421_behind_a_reply, I4_REPLIES},
	{"421 to a whole command", tale_421_to_a_whole_line, I4_REPLIES},
	{"a readable MAIL is refused", tale_readable_mail_refused, I4_REPLIES},
	{"501 to BDAT that is no command line", tale_bdat_no_line_501, I4_REPLIES},
	{"503 behind an accepted MAIL", tale_503_without_cause, I4_REPLIES},
	{"a reply behind the last one", tale_behind_the_end, I4_REPLIES},
	{"a keyword that should be stripped", tale_keyword_not_stripped, I4_REPLIES},
	{"a new link without the hello", tale_no_hello_again, I4_REPLIES},
	{"an end without a word", tale_without_a_word, I4_REPLIES},
	{"a command is passed twice", tale_passed_twice, I4_REPLIES},
	{"another client's body", tale_other_body, I5_MIXED},
	{"another client's reply", tale_other_reply, I5_MIXED},
	{"too much is held", tale_held, I6_BOUND},
	{"a counter is off by one", tale_counter_off, I9_COUNTERS},
	{"a session is left in the counters", tale_session_left, I9_COUNTERS},
	{"a message without a record", tale_no_record, I9_COUNTERS},
	{"in doubt without a record", tale_doubt_missing, I10_DOUBT},
	{"a record of a doubt that is none", tale_doubt_invented, I10_DOUBT},
	{"RCPT behind a MAIL that a rule refused", tale_rcpt_behind_refused_mail, I11_VERDICT},
	{"a sender that a rule refuses is passed", tale_rule_word_passed, I11_VERDICT},
	{"refused, and passed all the same", tale_refused_and_passed, I11_VERDICT},
	{"a verb that is never passed", tale_verb_passed, I11_VERDICT},
	{"a lookalike is passed", tale_smuggled, I11_VERDICT},
	{"plain octets behind STARTTLS", tale_plain_behind_starttls, I12_TLS},
	{"a plain reply behind the 220", tale_reply_behind_220, I12_TLS},
	{"STARTTLS of ringpost's own", tale_starttls, I_NONE},
	{"mail in clear where TLS is required", tale_mail_in_clear, I11_VERDICT},
	{"AUTH in clear", tale_auth_in_clear, I11_VERDICT},
	{"what was said in clear holds in TLS", tale_hello_kept, I11_VERDICT},
	{"STARTTLS is not shown", tale_starttls_not_shown, I12_TLS},
	{"STARTTLS is shown in TLS", tale_starttls_in_tls, I4_REPLIES},
	{"STARTTLS twice", tale_starttls_twice, I4_REPLIES},
};

static bool judged_right(void (*tell_it)(struct tale *t), enum invariant want, struct verdict *v)
{
	struct tale t = {.us = 1000000};

	record_init(&t.rec);
	t.lis = (struct oracle_listener){.recipients_max = 100,
		.errors_max = 20,
		.command_line_max = 4096,
		.pipeline = 250,
		.bad_sender = "bad@bad.example",
		.rule_reply = "550 5.7.1 no thanks",
		.server_count = 1,
		.shortest_ms = 60000};
	tell_it(&t);
	const struct oracle_in in = {.rec = &t.rec,
		.held_max = 400u << 10,
		.servers = &t.srv,
		.listeners = &t.lis,
		.listener_count = 1,
		.log = octets_span(&t.log),
		.stats = &t.st};
	oracle_judge(&in, v);
	forget(&t);
	return v->broken == want;
}

int oracle_cases(void)
{
	struct verdict v;
	int bad = 0;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		if (judged_right(cases[i].tell, cases[i].want, &v))
			continue;
		printf("# the oracle: %s: judged %d, not %d: %s\n", cases[i].name, (int)v.broken,
			(int)cases[i].want, v.text);
		bad++;
	}
	return bad + oracle_hook_cases();
}
