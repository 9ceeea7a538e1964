/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Plugins that may block: their events on helper threads, seen from a worker. Most tests exchange
 * the descriptor of a real object for one of their own, whose event() stands at a gate that the
 * test opens, so that nothing depends on how long anything takes.
 */
#include "tests/unit/hookbed.h"

/* ---- a plugin of the test's own ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* Of the lock: */
static bool open_gate;
static uint32_t gate_at;     /* RINGPOST_ON() of the events that stand at it */
static unsigned inside, ran; /* events at the gate; those that have come back */
static char order[400][4];   /* which, by their begin: "m2": MAIL of session 2 */
static unsigned begun;
static char texts[400], tls_texts[200];

static uint32_t verdict_now;
static bool suspends, on_worker;
/* Not of the lock: */
static struct ringpost_token token;
static const struct ringpost_host *host;
static pthread_t worker_thread;

static void write_down(const struct ringpost_event *ev)
{
	static const char letters[] = "CEAMRD.trTcb";

	cr_assert(begun < ARRAY_LEN(order));
	snprintf(order[begun++], sizeof(order[0]), "%c%u", letters[ev->kind],
		(unsigned)(ev->session % 10));
	snprintf(texts, sizeof(texts), "%.*s %.*s %.*s %.*s %.*s", (int)ev->listener.size,
		ev->listener.data, (int)ev->client.size, ev->client.data, (int)ev->helo.size,
		ev->helo.data, (int)ev->address.size, ev->address.data, (int)ev->data.size,
		ev->data.data);
	snprintf(tls_texts, sizeof(tls_texts), "%.*s %.*s %.*s %.*s %zu %x",
		(int)ev->tls_version.size, ev->tls_version.data, (int)ev->tls_cipher.size,
		ev->tls_cipher.data, (int)ev->tls_subject.size, ev->tls_subject.data,
		(int)ev->tls_sni.size, ev->tls_sni.data, ev->tls_sha256.size,
		ev->tls_sha256.size == 32 ? (unsigned char)ev->tls_sha256.data[31] : 0u);
	on_worker |= pthread_equal(pthread_self(), worker_thread) != 0;
}

static uint32_t gated(void *self, const struct ringpost_event *ev, struct ringpost_answer *answer)
{
	uint32_t verdict;
	bool suspend;

	pthread_mutex_lock(&lock);
	write_down(ev);
	inside++;
	pthread_cond_broadcast(&changed);
	while (!open_gate && (gate_at & RINGPOST_ON(ev->kind)))
		pthread_cond_wait(&changed, &lock);
	inside--;
	verdict = verdict_now;
	suspend = suspends;
	pthread_mutex_unlock(&lock);
	/* One event of a session at a time: no lock, so TSan looks. */
	*ev->user = (void *)((uintptr_t)*ev->user + 1);
	if (suspend)
		token = host->suspend(host->handle, ev);
	answer->text = "from a helper";
	pthread_mutex_lock(&lock);
	ran++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	return verdict;
}

static struct ringpost_plugin own = {RINGPOST_ABI, sizeof(struct ringpost_plugin), "gated",
	RINGPOST_MAY_BLOCK, RINGPOST_ON_ALL, NULL, NULL, gated};
static const struct ringpost_plugin *loaded;

static void set_gate(bool now)
{
	pthread_mutex_lock(&lock);
	open_gate = now;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void set_verdict(uint32_t verdict)
{
	pthread_mutex_lock(&lock);
	verdict_now = verdict;
	pthread_mutex_unlock(&lock);
}

static unsigned read_count(const unsigned *what)
{
	unsigned n;

	pthread_mutex_lock(&lock);
	n = *what;
	pthread_mutex_unlock(&lock);
	return n;
}

/* While the worker does not turn. */
static void wait_for(const unsigned *what, unsigned n)
{
	pthread_mutex_lock(&lock);
	while (*what < n)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static const char *by_order(void)
{
	static char all[sizeof(order)];

	all[0] = '\0';
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < begun; i++)
		strcat(strcat(all, i ? " " : ""), order[i]);
	pthread_mutex_unlock(&lock);
	return all;
}

static void begin_gated(uint32_t threads, uint32_t queue, uint32_t at)
{
	struct plugin *p;

	conf.helpers.threads = threads;
	conf.helpers.queue = queue;
	gate_at = at;
	add_plugin("gated", "block.so")->mode = HOOK_HOLD_END;
	worker_thread = pthread_self();
	begin();
	p = core.set->hooks[0].self;
	loaded = p->says;
	host = &p->host;
	p->says = &own;
}

/* Every session leaves, and what waits for it is still done. */
static void end_gated(void)
{
	struct plugin *p = core.set->hooks[0].self;

	set_gate(true);
	for (unsigned i = 0; i < SESSIONS; i++)
		hook_leave(&core, &seats[i]);
	cr_expect_eq(stats.hooks_now, 0u);
	hook_core_fini(&core);
	while (hook_set_settle(core.set, 20))
		;
	cr_expect_not(on_worker);
	p->says = loaded;
	hook_set_close(core.set);
	log_buf_free(log_lines);
	streams_fini(&bed.ss);
	ring_close(bed.r);
}

static enum hook_said ask_of(unsigned session, enum hook_point point, const char *about)
{
	struct hook_event ev = make_event(point, about);

	ev.sid = session;
	return ask_for(&seats[session], &ev);
}

static void tell_of(unsigned session, enum hook_point point)
{
	struct hook_event ev = make_event(point, NULL);

	ev.sid = session;
	hook_tell(&core, &seats[session], &listener, &ev);
}

static void show(unsigned session, struct span data)
{
	struct hook_event ev = make_event(HOOK_BODY, NULL);

	ev.sid = session;
	ev.data = data;
	hook_show(&core, &seats[session], &listener, &ev);
}

static void wait_for_wakes(unsigned n)
{
	for (unsigned i = 0; i < BED_TURNS_MAX && woken < n; i++)
		turn();
	cr_assert_eq(woken, n);
}

/* ---- questions ---- */

Test(block, a_question_is_answered)
{
	begin_gated(2, 10, 0);
	set_verdict(RINGPOST_REJECT);
	cr_expect_eq(ask_of(0, HOOK_RCPT, "a@b.example"), HOOK_LATER);
	cr_expect_eq(stats.hooks_now, 1u);
	wait_until_woken();
	cr_expect_eq(ask_of(0, HOOK_RCPT, "a@b.example"), HOOK_NO);
	EXPECT_NO(550, "5.7.1", "from a helper", false);
	cr_expect_str_eq(texts, "in 192.0.2.1 client.example a@b.example ");
	end_gated();
}

/* What the event pointed to has gone long before it is shown. */
Test(block, an_event_is_copied)
{
	struct hook_event ev = make_event(HOOK_RCPT, "a@b.example");
	struct smtp_path path;
	struct ring_addr client = client_addr();
	char words[32] = "c@d.example", name[32] = "helo.example";
	char of_tls[4][32] = {"TLSv1.3", "CIPHER", "Some One", "mx.example"};
	uint8_t sum[32] = {[31] = 0xef};
	struct hook_tls tls = some_tls();

	begin_gated(1, 10, RINGPOST_ON(RINGPOST_EHLO));
	cr_expect_eq(ask_of(1, HOOK_EHLO, "x"), HOOK_LATER);
	path = (struct smtp_path){.mailbox = span_str(words)};
	ev.path = &path;
	ev.client = &client;
	tls.version = span_str(of_tls[0]);
	tls.cipher = span_str(of_tls[1]);
	tls.subject = span_str(of_tls[2]);
	tls.sni = span_str(of_tls[3]);
	tls.sha256 = span_of(sum, sizeof(sum));
	ev.tls = &tls;
	ev.helo = span_str(name);
	cr_expect_eq(ask_for(&seats[0], &ev), HOOK_LATER);
	memset(words, 'x', sizeof(words));
	memset(name, 'x', sizeof(name));
	memset(of_tls, 'x', sizeof(of_tls));
	memset(sum, 'x', sizeof(sum));
	memset(&tls, 0xff, sizeof(tls));
	memset(&path, 0xff, sizeof(path));
	memset(&client, 0xff, sizeof(client));
	set_gate(true);
	wait_for(&ran, 2);
	cr_expect_str_eq(texts, "in 192.0.2.1 helo.example c@d.example ");
	cr_expect_str_eq(tls_texts, "TLSv1.3 CIPHER Some One mx.example 32 ef");
	end_gated();
}

Test(block, what_is_no_verdict)
{
	const char *text;

	begin_gated(1, 10, 0);
	set_verdict(77);
	for (unsigned i = 0; i < 3; i++) {
		cr_expect_eq(ask_of(0, HOOK_RCPT, "a@b.example"), HOOK_LATER);
		wait_until_woken();
		cr_expect_eq(ask_of(0, HOOK_RCPT, "a@b.example"), HOOK_NO);
		cr_expect_eq(no->code, 451);
		set_verdict(RINGPOST_PENDING); /* and no suspend() */
	}
	cr_expect_eq(stats.hook_failures, 3u);
	text = logged();
	text = strstr(text, "plugin gated: what it returned is no verdict here: 77");
	cr_assert_not_null(text);
	cr_expect_null(strstr(strchr(text, '\n'), "no verdict here"), "one a second");
	end_gated();
}

Test(block, it_may_suspend_as_well)
{
	begin_gated(1, 10, 0);
	suspends = true;
	set_verdict(RINGPOST_PENDING);
	cr_expect_eq(ask_of(0, HOOK_RCPT, "a@b.example"), HOOK_LATER);
	wait_for(&ran, 1);
	turn();
	cr_expect_not(hook_answered(&seats[0]));
	cr_expect(token.a != 0 || token.b != 0);
	cr_expect_eq(host->answer(host->handle, token, RINGPOST_TEMPFAIL, NULL), 0);
	wait_until_woken();
	cr_expect_eq(ask_of(0, HOOK_RCPT, "a@b.example"), HOOK_NO);
	cr_expect_eq(no->code, 450);
	/* It has suspended, and says something after all. */
	set_verdict(RINGPOST_REJECT);
	cr_expect_eq(ask_of(0, HOOK_RCPT, "a@b.example"), HOOK_LATER);
	wait_until_woken();
	cr_expect_eq(ask_of(0, HOOK_RCPT, "a@b.example"), HOOK_NO);
	cr_expect_eq(no->code, 550);
	/* News: there is nothing to suspend. */
	wait_for(&ran, 2);
	tell_of(0, HOOK_RESET);
	wait_for(&ran, 3);
	cr_expect(token.a == 0 && token.b == 0);
	end_gated();
}

Test(block, only_so_many_questions_wait)
{
	begin_gated(1, 1, RINGPOST_ON(RINGPOST_RCPT));
	cr_expect_eq(ask_of(0, HOOK_RCPT, "a@b.example"), HOOK_LATER);
	wait_for(&inside, 1);
	cr_expect_eq(ask_of(1, HOOK_RCPT, "a@b.example"), HOOK_LATER);
	cr_expect_eq(ask_of(2, HOOK_RCPT, "a@b.example"), HOOK_NO);
	cr_expect_eq(no->code, 451);
	cr_expect_eq(stats.hook_helper_refusals, 1u);
	cr_expect_eq(stats.hook_failures, 1u);
	cr_expect_not(hook_waits(&seats[2]));
	cr_expect_not_null(strstr(logged(), "too much waits for a helper thread"));
	/* News find room. */
	tell_of(2, HOOK_CLOSE);
	set_gate(true);
	wait_for_wakes(2);
	cr_expect_eq(ask_of(0, HOOK_RCPT, "a@b.example"), HOOK_PASS);
	cr_expect_eq(ask_of(1, HOOK_RCPT, "a@b.example"), HOOK_PASS);
	wait_for(&ran, 3);
	cr_expect_str_eq(by_order(), "R0 R1 c2");
	end_gated();
}

static void pass_the_deadline(unsigned session)
{
	woken = 0;
	wait_for_wakes(1);
	cr_expect_eq(ask_of(session, HOOK_RCPT, "a@b.example"), HOOK_NO);
	cr_expect_eq(no->code, 451);
}

/* The one that is being run answers to nobody; the one that waits is not shown at all. */
Test(block, deadlines)
{
	begin_gated(1, 10, RINGPOST_ON(RINGPOST_RCPT));
	hooks[0].deadline_ms = 30;
	cr_expect_eq(ask_of(0, HOOK_RCPT, "a@b.example"), HOOK_LATER);
	wait_for(&inside, 1);
	pass_the_deadline(0);
	cr_expect_eq(ask_of(0, HOOK_RCPT, "a@b.example"), HOOK_LATER, "behind its own");
	pass_the_deadline(0);
	cr_expect_eq(ask_of(1, HOOK_RCPT, "a@b.example"), HOOK_LATER);
	pass_the_deadline(1);
	cr_expect_eq(stats.hook_deadlines, 3u);
	tell_of(0, HOOK_CLOSE);
	tell_of(1, HOOK_CLOSE);
	set_gate(true);
	wait_for(&ran, 3);
	for (unsigned i = 0; i < BED_TURNS_MAX && stats.hook_late_answers == 0; i++)
		turn();
	cr_expect_eq(stats.hook_late_answers, 1u);
	cr_expect_str_eq(by_order(), "R0 c1 c0");
	end_gated();
}

Test(block, a_client_leaves)
{
	begin_gated(1, 10, RINGPOST_ON(RINGPOST_RCPT));
	for (unsigned i = 0; i < 3; i++) {
		cr_expect_eq(ask_of(i, HOOK_RCPT, "a@b.example"), HOOK_LATER);
		wait_for(&inside, 1);
	}
	for (unsigned i = 0; i < 3; i++) {
		hook_forget(&core, &seats[i]);
		tell_of(i, HOOK_TRANSACTION);
		tell_of(i, HOOK_CLOSE);
		hook_leave(&core, &seats[i]);
	}
	/* Its seat is somebody else's by now. */
	cr_expect_eq(ask_of(0, HOOK_EHLO, "x"), HOOK_LATER);
	set_gate(true);
	wait_for_wakes(1);
	cr_expect_eq(ask_of(0, HOOK_EHLO, "x"), HOOK_PASS);
	wait_for(&ran, 8);
	cr_expect_str_eq(by_order(), "R0 T1 T2 E0 T0 c1 c2 c0");
	for (unsigned i = 0; i < BED_TURNS_MAX && stats.hook_late_answers == 0; i++)
		turn();
	cr_expect_eq(stats.hook_late_answers, 1u);
	end_gated();
}

/* ---- news ---- */

Test(block, news_keep_their_order)
{
	begin_gated(3, 10, RINGPOST_ON(RINGPOST_DATA));
	cr_expect_eq(ask_of(0, HOOK_DATA, NULL), HOOK_LATER);
	wait_for(&inside, 1);
	tell_of(0, HOOK_STARTTLS);
	tell_of(0, HOOK_RESET);
	tell_of(0, HOOK_RESET);
	tell_of(0, HOOK_RESET);
	tell_of(0, HOOK_TRANSACTION);
	tell_of(0, HOOK_RESET);
	tell_of(0, HOOK_CLOSE);
	set_gate(true);
	wait_for(&ran, 6);
	cr_expect_str_eq(by_order(), "D0 t0 r0 T0 r0 c0", "RESET once where it says nothing new");
	end_gated();
}

/* A plugin that has not asked for MAIL and is far behind: the next transaction waits for it. */
Test(block, a_transaction_waits_for_news)
{
	own.events = RINGPOST_ON(RINGPOST_TRANSACTION) | RINGPOST_ON(RINGPOST_CLOSE);
	begin_gated(1, 10, RINGPOST_ON(RINGPOST_TRANSACTION));
	tell_of(0, HOOK_TRANSACTION);
	wait_for(&inside, 1);
	for (unsigned i = 0; i < 8; i++) {
		cr_expect_eq(ask_of(0, HOOK_MAIL, "a@b.example"), HOOK_PASS, "%u", i);
		tell_of(0, HOOK_TRANSACTION);
	}
	cr_expect_eq(ask_of(0, HOOK_MAIL, "a@b.example"), HOOK_LATER);
	cr_expect_eq(ask_of(1, HOOK_MAIL, "a@b.example"), HOOK_PASS, "another session");
	set_gate(true);
	wait_until_woken();
	cr_expect_eq(read_count(&ran), 9u);
	cr_expect_eq(ask_of(0, HOOK_MAIL, "a@b.example"), HOOK_PASS);
	cr_expect_null(strchr(by_order(), 'M'), "nothing that it did not ask for");
	end_gated();
}

/* ... and when that is let pass by `on-failure`, there is an end to it. */
Test(block, news_have_a_bound)
{
	own.events = RINGPOST_ON(RINGPOST_TRANSACTION) | RINGPOST_ON(RINGPOST_CLOSE);
	begin_gated(1, 10, RINGPOST_ON(RINGPOST_TRANSACTION));
	hooks[0].on_failure = HOOK_FAILS_ACCEPT;
	tell_of(0, HOOK_TRANSACTION);
	wait_for(&inside, 1);
	for (unsigned i = 0; i < 32; i++)
		tell_of(0, HOOK_TRANSACTION);
	cr_expect_eq(ask_of(0, HOOK_MAIL, "a@b.example"), HOOK_NO);
	EXPECT_NO(451, "4.3.0", "message inspection is behind, try again later", false);
	cr_expect_eq(stats.hook_helper_refusals, 1u);
	cr_expect_eq(stats.hook_helper_losses, 0u);
	/* Without a MAIL that it was asked about: a hook before it has seen to that. */
	for (unsigned i = 32; i < 256 + 3; i++)
		tell_of(0, HOOK_TRANSACTION);
	cr_expect_eq(stats.hook_helper_losses, 3u);
	tell_of(0, HOOK_CLOSE);
	set_gate(true);
	wait_for(&ran, 1 + 256 + 1);
	cr_expect_str_eq(order[257], "c0");
	end_gated();
}

/* Sessions come and go, and the plugin stands still: there is an end to that as well. What it has
 * not heard of it need not hear the end of. */
Test(block, sessions_that_are_over_have_a_bound)
{
	begin_gated(1, 10, RINGPOST_ON(RINGPOST_CLOSE));
	for (unsigned i = 0; i < SESSIONS; i++) {
		tell_of(i % 2, HOOK_CLOSE);
		hook_leave(&core, &seats[i % 2]);
	}
	cr_expect_eq(ask_of(2, HOOK_CONNECT, NULL), HOOK_NO);
	cr_expect_eq(no->code, 451);
	cr_expect_eq(stats.hook_helper_refusals, 1u);
	tell_of(2, HOOK_CLOSE);
	cr_expect_eq(stats.hook_helper_losses, 0u);
	tell_of(2, HOOK_TRANSACTION);
	cr_expect_eq(stats.hook_helper_losses, 1u);
	hook_leave(&core, &seats[2]);
	set_gate(true);
	while (hook_set_settle(core.set, 20))
		;
	cr_expect_eq(read_count(&ran), (unsigned)SESSIONS);
	cr_expect_eq(ask_of(2, HOOK_CONNECT, NULL), HOOK_LATER);
	end_gated();
}

/* ---- the message ---- */

Test(block, the_message_in_pieces)
{
	begin_gated(2, 10, RINGPOST_ON(RINGPOST_BODY));
	show(0, SPAN_LIT("one"));
	show(0, SPAN_NONE);
	show(0, SPAN_LIT("two"));
	cr_expect_eq(ask_of(0, HOOK_END_OF_DATA, NULL), HOOK_LATER);
	set_gate(true);
	wait_until_woken();
	cr_expect_eq(ask_of(0, HOOK_END_OF_DATA, NULL), HOOK_PASS);
	cr_expect_str_eq(by_order(), "b0 b0 .0");
	end_gated();
}

/* It does not decide about what it has not seen. */
Test(block, the_end_of_a_message_that_was_missed)
{
	begin_gated(2, 10, 0);
	cr_expect_eq(ask_of(0, HOOK_END_OF_DATA, NULL), HOOK_NO);
	cr_expect_eq(no->code, 451);
	cr_expect_eq(stats.hook_failures, 1u);
	own.events &= ~RINGPOST_ON(RINGPOST_BODY);
	cr_expect_eq(ask_of(1, HOOK_END_OF_DATA, NULL), HOOK_LATER, "it does not ask for it");
	end_gated();
}

/* What a client sends is stopped while too much of it waits. */
Test(block, a_message_that_comes_too_fast)
{
	static uint8_t piece[16u << 10];
	unsigned pieces = 0;

	begin_gated(1, 10, RINGPOST_ON(RINGPOST_BODY));
	while (!hook_full(&seats[0])) {
		cr_assert(pieces++ < 100);
		show(0, span_of(piece, sizeof(piece)));
	}
	/* The first is with the plugin; of the others 64 KiB are not yet too many. */
	cr_expect(pieces == 5 || pieces == 6, "%u", pieces);
	show(0, span_of(piece, sizeof(piece)));
	cr_expect(hook_full(&seats[0]));
	set_gate(true);
	wait_until_woken();
	cr_expect_not(hook_full(&seats[0]));
	wait_for(&ran, pieces + 1);
	show(0, span_of(piece, sizeof(piece)));
	cr_expect_not(hook_full(&seats[0]));
	end_gated();
}

static enum hook_said end_of(uint64_t tid)
{
	struct hook_event ev = make_event(HOOK_END_OF_DATA, NULL);

	ev.sid = 0;
	ev.tid = tid;
	return ask_for(&seats[0], &ev);
}

static void show_of(uint64_t tid, size_t n)
{
	static uint8_t octets[80u << 10];
	struct hook_event ev = make_event(HOOK_BODY, NULL);

	ev.sid = 0;
	ev.tid = tid;
	ev.data = span_of(octets, n);
	hook_show(&core, &seats[0], &listener, &ev);
}

/* A client is stopped for the deadline, not for as long as the plugin is stuck; nothing more of its
 * messages is kept meanwhile. */
Test(block, stuck_for_longer_than_its_deadline)
{
	begin_gated(1, 10, RINGPOST_ON(RINGPOST_BODY));
	hooks[0].deadline_ms = 30;
	show_of(1, 1);
	wait_for(&inside, 1);
	show_of(1, 80u << 10);
	cr_expect(hook_full(&seats[0]));
	wait_until_woken();
	cr_expect_not(hook_full(&seats[0]));
	cr_expect_eq(stats.hook_deadlines, 1u);
	show_of(1, 100);
	cr_expect_eq(end_of(1), HOOK_NO);
	cr_expect_eq(no->code, 451);
	show_of(2, 80u << 10);
	show_of(2, 80u << 10);
	cr_expect_not(hook_full(&seats[0]));
	cr_expect_eq(end_of(2), HOOK_NO);
	cr_expect_eq(stats.hook_helper_losses, 1u, "one for the message");
	cr_expect_eq(stats.hook_failures, 2u);
	cr_expect_eq(read_count(&begun), 1u);
	end_gated();
}

/* It comes back behind its deadline: the next message is shown to it as ever. */
Test(block, back_after_its_deadline)
{
	uint64_t tid = 1;

	begin_gated(1, 10, RINGPOST_ON(RINGPOST_BODY));
	hooks[0].deadline_ms = 30;
	show_of(1, 1);
	wait_for(&inside, 1);
	show_of(1, 80u << 10);
	wait_until_woken();
	set_gate(true);
	wait_for(&ran, 2);
	while (read_count(&ran) < 3 && tid < BED_TURNS_MAX) {
		show_of(++tid, 1);
		turn();
	}
	cr_expect(read_count(&ran) >= 3);
	cr_expect_eq(end_of(tid), HOOK_LATER);
	cr_expect_eq(stats.hook_deadlines, 1u);
	cr_expect_not(hook_full(&seats[0]));
	end_gated();
}

/* The client goes while it is stopped; who sits in its seat next is not. */
Test(block, gone_while_it_was_stopped)
{
	static uint8_t piece[80u << 10];

	begin_gated(1, 10, RINGPOST_ON(RINGPOST_BODY));
	show(0, span_of(piece, 1));
	wait_for(&inside, 1);
	show(0, span_of(piece, sizeof(piece)));
	cr_expect(hook_full(&seats[0]));
	tell_of(0, HOOK_CLOSE);
	hook_leave(&core, &seats[0]);
	memset(&seats[0], 0, sizeof(seats[0]));
	set_gate(true);
	wait_for(&ran, 3);
	for (unsigned i = 0; i < 10; i++)
		turn();
	cr_expect_eq(woken, 0u);
	end_gated();
}

/* ---- the end ---- */

Test(block, one_that_hangs)
{
	begin_gated(2, 10, RINGPOST_ON(RINGPOST_CLOSE));
	tell_of(0, HOOK_CLOSE);
	tell_of(1, HOOK_RESET);
	hook_leave(&core, &seats[0]);
	wait_for(&ran, 1);
	wait_for(&inside, 1);
	cr_expect_str_eq(hook_set_settle(core.set, 1), "gated");
	set_gate(true);
	end_gated();
}

/* Its worker has ended before it answers. */
Test(block, nobody_is_left_to_be_told)
{
	struct plugin *p;

	begin_gated(1, 10, RINGPOST_ON(RINGPOST_RCPT) | RINGPOST_ON(RINGPOST_BODY));
	p = core.set->hooks[0].self;
	cr_expect_eq(ask_of(0, HOOK_RCPT, "a@b.example"), HOOK_LATER);
	hook_leave(&core, &seats[0]);
	hook_core_fini(&core);
	set_gate(true);
	while (hook_set_settle(core.set, 20))
		;
	p->says = loaded;
	hook_set_close(core.set);
	log_buf_free(log_lines);
	streams_fini(&bed.ss);
	ring_close(bed.r);
}

/* ---- as it is used ---- */

/* As `ringpost check` opens them: no thread is made. */
Test(block, opened_and_closed)
{
	struct hook_set *set;

	add_plugin("one", "block.so");
	add_plugin("two", "block.so");
	set = open_set();
	cr_assert_not_null(set, "%s", said);
	cr_expect_not_null(set->helpers);
	cr_expect_null(hook_set_settle(set, 1));
	hook_set_close(set);
	option(&hooks[1], "colour", "red");
	cr_expect_null(open_set(), "the first one's threads are no trouble");
}

static uint64_t counted(uint32_t hook, uint32_t index)
{
	uint64_t n = 0;

	cr_assert_not_null(hook_set_counter(core.set, hook, index, &n));
	return n;
}

static void one_round(enum hook_point point)
{
	unsigned open = 0;
	bool done[SESSIONS] = {false};

	woken = 0;
	for (unsigned s = 0; s < SESSIONS; s++)
		cr_assert_eq(ask_of(s, point, "a@b.example"), HOOK_LATER);
	/* Each question goes to two hooks, one after the other. */
	for (unsigned i = 0; i < BED_TURNS_MAX && open < SESSIONS; i++) {
		turn();
		for (unsigned s = 0; s < SESSIONS; s++)
			if (!done[s] && hook_answered(&seats[s]) &&
				ask_of(s, point, "a@b.example") == HOOK_PASS) {
				done[s] = true;
				open++;
			}
	}
	cr_assert_eq(open, (unsigned)SESSIONS);
}

/* Two hooks of the same object, more sessions than threads: each session's events one at a time,
 * all of them, and whatever a plugin keeps is given back. */
Test(block, many_sessions)
{
	conf.helpers.threads = 3;
	conf.helpers.queue = 2 * SESSIONS;
	for (unsigned i = 0; i < 2; i++) {
		struct conf_hook *h = add_plugin(i ? "two" : "one", "block.so");

		h->mode = HOOK_HOLD_END;
		option(h, "at", "rcpt,close");
		option(h, "ms", "2");
		if (i)
			option(h, "later", "yes");
	}
	begin();
	for (unsigned round = 0; round < 5; round++) {
		static const enum hook_point points[] = {
			HOOK_CONNECT, HOOK_MAIL, HOOK_RCPT, HOOK_DATA, HOOK_END_OF_DATA};

		for (unsigned p = 0; p < ARRAY_LEN(points); p++)
			one_round(points[p]);
		for (unsigned s = 0; s < SESSIONS; s++) {
			show(s, SPAN_LIT("octets"));
			tell_of(s, HOOK_TRANSACTION);
			tell_of(s, HOOK_CLOSE);
			hook_leave(&core, &seats[s]);
		}
		/* So many that are over may not wait at the same time. */
		while (hook_set_settle(core.set, 20))
			;
	}
	cr_expect_eq(stats.hook_failures + stats.hook_deadlines + stats.hook_late_answers, 0u);
	for (uint32_t h = 0; h < 2; h++) {
		cr_expect_eq(counted(h, 0), 5u * SESSIONS * (5 + 3), "events");
		cr_expect_eq(counted(h, 1), 5u * SESSIONS, "sessions");
		cr_expect_eq(counted(h, 2), 5u * SESSIONS, "closed");
		cr_expect_eq(counted(h, 3), 0u, "twice");
	}
	end();
}
