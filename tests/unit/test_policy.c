/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Policy delegation on a real ring, with a far end that the test plays octet by octet: the
 * connections and who gets them (policy_pool.h), what is asked at each event and what becomes of
 * each action (policy.c, through the dispatch). Time passes when the test says so: pass_ms().
 */
#include "engine/hook/hook_int.h"
#include "engine/hook/policy/policy_pool.h"
#include "engine/obs/log.h"

#include "tests/unit/bed.h"
#include "tests/unit/some_tls.h"

#include <sys/un.h>

enum { FAR_MAX = 16, ASKERS = 16 };

/* ---- the far end ---- */

static struct far {
	int lfd;
	struct ring_addr addr;
	unsigned count; /* connections that came */
	struct far_conn {
		int fd; /* -1: closed by the test */
		struct pile in;
		bool ended;
	} conns[FAR_MAX];
} far;

static void far_open(bool unix_socket)
{
	uint16_t port;

	far = (struct far){.lfd = -1};
	if (!unix_socket) {
		far.lfd = tcp_listener(&port);
		far.addr = loop_addr(port);
	} else {
		struct sockaddr_un u = {.sun_family = AF_UNIX};

		/* An abstract name of this process's own: no file is left. */
		snprintf(u.sun_path + 1, sizeof(u.sun_path) - 1, "ringpost-policy-%d", getpid());
		far.addr.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
					   strlen(u.sun_path + 1));
		memcpy(&far.addr.ss, &u, sizeof(u));
		far.lfd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		cr_assert(bind(far.lfd, &far.addr.sa, far.addr.len) == 0);
		cr_assert(listen(far.lfd, 64) == 0);
	}
	fd_nonblock(far.lfd);
}

/* Takes who comes, reads what there is. */
static void far_run(void)
{
	int fd;

	while (far.lfd >= 0 &&
		(fd = accept4(far.lfd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
		cr_assert(far.count < FAR_MAX);
		far.conns[far.count++] = (struct far_conn){.fd = fd};
	}
	for (unsigned i = 0; i < far.count; i++) {
		struct far_conn *c = &far.conns[i];

		if (c->fd >= 0 && !c->ended && peer_read(c->fd, &c->in, 1 << 16) < 0)
			c->ended = true;
	}
}

static void far_hang_up(unsigned i, bool reset)
{
	if (reset)
		fd_reset_close(far.conns[i].fd);
	else
		close(far.conns[i].fd);
	far.conns[i].fd = -1;
}

static void far_close(void)
{
	for (unsigned i = 0; i < far.count; i++) {
		if (far.conns[i].fd >= 0)
			close(far.conns[i].fd);
		pile_free(&far.conns[i].in);
	}
	if (far.lfd >= 0)
		close(far.lfd);
}

/* Requests that lie there, complete. */
static unsigned far_asked(unsigned i)
{
	const struct pile *v = &far.conns[i].in;
	unsigned n = 0;

	for (size_t at = 1; at < v->n; at++)
		n += v->p[at] == '\n' && v->p[at - 1] == '\n';
	return n;
}

static void far_say(unsigned i, const char *text)
{
	far.conns[i].in.n = 0;
	cr_assert_eq(write(far.conns[i].fd, text, strlen(text)), (ssize_t)strlen(text));
}

/* ---- the near end ---- */

static struct near {
	struct bed bed;
	struct timers timers;
	struct stat_table stats;
	struct conf_hook conf;
	struct policy_pool pool;
	struct {
		struct policy_question *q;
		unsigned replies, failures;
		enum policy_kind kind;
		char text[512];
	} askers[ASKERS];
	unsigned order[ASKERS], ended; /* who, in what order */
	unsigned (*on_reply)(unsigned);
} near;

static void ended(const struct policy_asker *who)
{
	unsigned i = (unsigned)who->sid;

	cr_assert_not(near.bed.in_call, "called back from inside a call");
	cr_assert_eq(who->call, &near.askers[i]);
	near.askers[i].q = NULL;
	near.order[near.ended++ % ASKERS] = i;
}

static void ask(unsigned i);

static void replied(const struct policy_asker *who, const struct policy_reply *r)
{
	unsigned i = (unsigned)who->sid;

	ended(who);
	near.askers[i].replies++;
	near.askers[i].kind = r->kind;
	snprintf(near.askers[i].text, sizeof(near.askers[i].text), "%s", r->text);
	if (near.on_reply) {
		unsigned next = near.on_reply(i);

		if (next < ASKERS)
			ask(next);
	}
}

static void failed(const struct policy_asker *who, const char *why)
{
	unsigned i = (unsigned)who->sid;

	ended(who);
	near.askers[i].failures++;
	snprintf(near.askers[i].text, sizeof(near.askers[i].text), "%s", why);
}

static const struct policy_pool_events pool_events = {replied, failed};

static uint64_t clock_ms(void)
{
	return ring_now_us(near.bed.r) / 1000;
}

static void run_timers(void)
{
	timers_run(&near.timers, clock_ms());
}

/* Every timer that is set comes so much sooner, and a tick for good measure. */
static void pass_ms(uint64_t ms)
{
	struct list all;
	struct timer *t;

	ms += TIMER_TICK_MS;
	list_init(&all);
	for (int level = 0; level < TIMER_LEVELS; level++)
		for (int i = 0; i < TIMER_SLOTS; i++)
			LIST_FOR_SAFE(it, &near.timers.slot[level][i])
			{
				t = CONTAINER_OF(it, struct timer, node);
				timer_stop(&near.timers, t);
				list_push_back(&all, &t->node);
			}
	for (struct list *it; (it = list_pop_front(&all)) != NULL;) {
		t = CONTAINER_OF(it, struct timer, node);
		timer_set(&near.timers, t, t->at_ms - MIN_OF(t->at_ms, ms));
	}
}

static void near_open(bool unix_socket, uint32_t connections, uint32_t queue)
{
	const struct ring_conf c = bed_conf();

	memset(&near, 0, sizeof(near));
	bed_open(&near.bed, &c, 64, 16);
	far_open(unix_socket);
	timers_init(&near.timers, clock_ms());
	near.conf = (struct conf_hook){.name = "p",
		.type = HOOK_POLICY,
		.endpoint = {far.addr, "far"},
		.connections = connections,
		.queue = queue,
		.connect_ms = 10000,
		.idle_ms = 300000,
		.ttl_ms = 1000000};
	cr_assert(policy_pool_init(&near.pool, &near.conf, ASKERS, &pool_events, &near.bed.ss,
		&near.timers, &near.stats));
}

static void turn(void)
{
	far_run();
	ring_turn(near.bed.r, ring_now_us(near.bed.r) + 1000);
	run_timers();
	streams_flush(&near.bed.ss);
}

#define UNTIL(cond)                                                             \
	do {                                                                    \
		unsigned left_ = BED_TURNS_MAX;                                 \
		while (!(cond)) {                                               \
			turn();                                                 \
			cr_assert(left_-- > 0, "stuck waiting for: %s", #cond); \
		}                                                               \
	} while (0)

/* Time enough for something that must not happen. */
static void some_turns(void)
{
	for (int i = 0; i < 30; i++)
		turn();
}

static void later(uint64_t ms)
{
	pass_ms(ms);
	turn();
}

static void near_close(void)
{
	UNTIL(policy_pool_wind_up(&near.pool));
	cr_assert_eq(near.timers.armed, 0u);
	policy_pool_fini(&near.pool);
	far_close();
	bed_close(&near.bed);
}

static bool may_ask(unsigned i)
{
	const struct policy_request r = {.protocol_state = POLICY_AT_RCPT,
		.protocol_name = SPAN_LIT("ESMTP"),
		.recipient = SPAN_LIT("who@y.test")};
	const struct policy_asker who = {&near.askers[i], i, 7};

	BED_CALL(&near.bed, near.askers[i].q = policy_pool_ask(&near.pool, &r, &who));
	return near.askers[i].q != NULL;
}

static void ask(unsigned i)
{
	cr_assert(may_ask(i));
}

static void forget(unsigned i)
{
	BED_CALL(&near.bed, policy_pool_forget(&near.pool, near.askers[i].q));
	near.askers[i].q = NULL;
}

#define COUNTED(name) near.stats.name

/* Asked on connection `on`, answered, and the connection is kept. */
static void exchange(unsigned i, unsigned on)
{
	unsigned before = near.askers[i].replies;

	ask(i);
	UNTIL(on < far.count && far_asked(on) == 1);
	far_say(on, "action=DUNNO\n\n");
	UNTIL(near.askers[i].replies == before + 1);
}

/* ---- connections ---- */

static void one_after_the_other(bool unix_socket)
{
	static const char head[] = "request=smtpd_access_policy\nprotocol_state=RCPT\n";

	near_open(unix_socket, 4, 4);
	ask(0);
	UNTIL(far.count == 1 && far_asked(0) == 1);
	cr_expect_eq(memcmp(far.conns[0].in.p, head, sizeof(head) - 1), 0);
	cr_expect_not_null(
		memmem(far.conns[0].in.p, far.conns[0].in.n, "\nrecipient=who@y.test\n", 22));
	far_say(0, "action=reject go away\n\n");
	UNTIL(near.askers[0].replies == 1);
	cr_expect_eq(near.askers[0].kind, POLICY_REJECT);
	cr_expect_str_eq(near.askers[0].text, "go away");
	for (unsigned i = 1; i < 6; i++)
		exchange(i, 0);
	cr_expect_eq(far.count, 1u);
	cr_expect_eq(COUNTED(policy_questions), 6u);
	cr_expect_eq(COUNTED(policy_connections), 1u);
	cr_expect_eq(COUNTED(policy_retries), 0u);
	near_close();
}

BED_TEST(policy_pool, tcp)
{
	one_after_the_other(false);
}

BED_TEST(policy_pool, unix_socket)
{
	one_after_the_other(true);
}

Test(policy_pool, a_reply_in_octets)
{
	static const char reply[] = "x=y\r\naction=450 4.2.0 wait\n\n";

	near_open(false, 1, 0);
	ask(0);
	UNTIL(far.count == 1 && far_asked(0) == 1);
	for (size_t i = 0; i < sizeof(reply) - 1; i++) {
		cr_assert_eq(near.askers[0].replies, 0u);
		cr_assert_eq(write(far.conns[0].fd, reply + i, 1), 1);
		for (int k = 0; k < 3; k++)
			turn();
	}
	UNTIL(near.askers[0].replies == 1);
	cr_expect_eq(near.askers[0].kind, POLICY_CODE);
	cr_expect_str_eq(near.askers[0].text, "wait");
	near_close();
}

Test(policy_pool, the_one_used_last_is_used_first)
{
	near_open(false, 4, 4);
	ask(0);
	ask(1);
	ask(2);
	UNTIL(far.count == 3 && far_asked(0) && far_asked(1) && far_asked(2));
	far_say(2, "action=OK\n\n");
	UNTIL(near.ended == 1);
	far_say(0, "action=OK\n\n");
	UNTIL(near.ended == 2);
	far_say(1, "action=OK\n\n");
	UNTIL(near.ended == 3);
	exchange(3, 1);
	exchange(4, 1);
	ask(5);
	ask(6);
	UNTIL(far_asked(0) == 1 && far_asked(1) == 1);
	cr_expect_eq(far_asked(2), 0u);
	far_say(0, "action=OK\n\n");
	far_say(1, "action=OK\n\n");
	UNTIL(near.ended == 7);
	cr_expect_eq(far.count, 3u);
	near_close();
}

Test(policy_pool, so_many_and_no_more)
{
	static const unsigned in_order[] = {1, 2, 0, 3};

	near_open(false, 2, 2);
	for (unsigned i = 0; i < 4; i++)
		ask(i);
	cr_expect_not(may_ask(4));
	cr_expect_eq(COUNTED(policy_queue_full), 1u);
	UNTIL(far.count == 2 && far_asked(0) && far_asked(1));
	some_turns();
	cr_expect_eq(far.count, 2u);
	far_say(1, "action=OK\n\n");
	UNTIL(near.ended == 1 && far_asked(1) == 1);
	ask(4); /* there is room again */
	cr_expect_not(may_ask(5));
	far_say(1, "action=OK\n\n");
	UNTIL(near.ended == 2 && far_asked(1) == 1);
	far_say(0, "action=OK\n\n");
	UNTIL(near.ended == 3 && far_asked(0) == 1);
	far_say(1, "action=OK\n\n");
	UNTIL(near.ended == 4);
	far_say(0, "action=OK\n\n");
	UNTIL(near.ended == 5);
	for (unsigned i = 0; i < ARRAY_LEN(in_order); i++)
		cr_expect_eq(near.order[i], in_order[i], "%u", i);
	cr_expect_eq(far.count, 2u);
	near_close();
}

static unsigned next_one(unsigned i)
{
	return i + 1;
}

/* The session goes on at once, and its next command asks at once. */
Test(policy_pool, asked_again_from_inside_the_reply)
{
	near_open(false, 1, 0);
	near.on_reply = next_one;
	ask(0);
	for (unsigned i = 0; i < ASKERS; i++) {
		UNTIL(far.count == 1 && far_asked(0) == 1);
		far_say(0, "action=OK\n\n");
		UNTIL(near.ended == i + 1);
	}
	cr_expect_eq(far.count, 1u);
	near_close();
}

/* ---- a server that goes ---- */

static void again_at_once(bool reset, const char *half)
{
	near_open(false, 4, 4);
	ask(0);
	ask(1);
	UNTIL(far.count == 2 && far_asked(0) && far_asked(1));
	far_say(0, "action=OK\n\n");
	UNTIL(near.ended == 1);
	far_say(1, "action=OK\n\n");
	UNTIL(near.ended == 2);
	ask(2);
	UNTIL(far_asked(1) == 1);
	if (half)
		far_say(1, half);
	far_hang_up(1, reset);
	/* Not on the other one that is kept, and without any time passing. */
	UNTIL(far.count == 3 && far_asked(2) == 1);
	cr_expect_eq(far_asked(0), 0u);
	far_say(2, "action=OK\n\n");
	UNTIL(near.askers[2].replies == 1);
	cr_expect_eq(COUNTED(policy_retries), 1u);
	near_close();
}

Test(policy_pool, a_kept_one_is_closed_instead_of_an_answer)
{
	again_at_once(false, NULL);
}

Test(policy_pool, a_kept_one_is_reset_instead_of_an_answer)
{
	again_at_once(true, NULL);
}

Test(policy_pool, a_kept_one_is_closed_amid_an_answer)
{
	again_at_once(false, "action=OK\n");
}

Test(policy_pool, kept_ones_that_the_server_closes_go)
{
	near_open(false, 4, 4);
	exchange(0, 0);
	far_hang_up(0, false);
	UNTIL(near.pool.conns.used == 0);
	exchange(1, 1);
	far_hang_up(1, true);
	UNTIL(near.pool.conns.used == 0);
	exchange(2, 2);
	cr_expect_eq(COUNTED(policy_retries), 0u);
	cr_expect_eq(near.ended, 3u);
	near_close();
}

Test(policy_pool, a_new_one_is_closed_once)
{
	near_open(false, 4, 4);
	ask(0);
	UNTIL(far.count == 1 && far_asked(0) == 1);
	far_hang_up(0, false);
	UNTIL(near.pool.conns.used == 0);
	some_turns();
	cr_expect_eq(far.count, 1u);
	cr_expect_eq(near.ended, 0u);
	later(POLICY_RETRY_MS);
	UNTIL(far.count == 2 && far_asked(1) == 1);
	far_say(1, "action=OK\n\n");
	UNTIL(near.askers[0].replies == 1);
	cr_expect_eq(COUNTED(policy_retries), 1u);
	near_close();
}

Test(policy_pool, a_new_one_is_closed_twice)
{
	near_open(false, 4, 4);
	ask(0);
	UNTIL(far.count == 1 && far_asked(0) == 1);
	far_hang_up(0, false);
	UNTIL(near.pool.conns.used == 0);
	later(POLICY_RETRY_MS);
	UNTIL(far.count == 2 && far_asked(1) == 1);
	far_hang_up(1, true);
	UNTIL(near.askers[0].failures == 1);
	cr_expect_str_eq(near.askers[0].text,
		"the policy server closed the connection without an answer: "
		"the peer reset the connection");
	cr_expect_eq(near.pool.questions.used, 0u);
	near_close();
}

/* At once, behind a second, and no third time: the question of a kept connection has three. */
Test(policy_pool, a_kept_one_and_two_new_ones)
{
	near_open(false, 1, 4);
	exchange(0, 0);
	ask(1);
	UNTIL(far_asked(0) == 1);
	far_hang_up(0, false);
	UNTIL(far.count == 2 && far_asked(1) == 1);
	far_hang_up(1, false);
	UNTIL(near.pool.conns.used == 0);
	later(POLICY_RETRY_MS);
	UNTIL(far.count == 3 && far_asked(2) == 1);
	far_hang_up(2, false);
	UNTIL(near.askers[1].failures == 1);
	cr_expect_str_eq(
		near.askers[1].text, "the policy server closed the connection without an answer");
	near_close();
}

Test(policy_pool, nobody_listens)
{
	near_open(false, 2, 6);
	close(far.lfd);
	far.lfd = -1;
	for (unsigned i = 0; i < 8; i++)
		ask(i);
	UNTIL(near.pool.conns.used == 0 && list_empty(&near.pool.waiting));
	cr_expect_eq(near.ended, 0u);
	later(POLICY_RETRY_MS);
	UNTIL(near.ended == 8);
	for (unsigned i = 0; i < 8; i++) {
		cr_expect_eq(near.askers[i].failures, 1u);
		cr_expect_str_eq(near.askers[i].text,
			"the policy server cannot be reached: nobody listens there");
	}
	cr_expect_eq(COUNTED(policy_retries), 8u);
	cr_expect_eq(COUNTED(policy_connections), 0u);
	near_close();
}

/* The socket itself cannot be had: found inside ask(), told later. */
Test(policy_pool, no_descriptor)
{
	struct rlimit was, none;

	near_open(false, 1, 1);
	getrlimit(RLIMIT_NOFILE, &was);
	none = was;
	none.rlim_cur = 0;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	ask(0);
	turn();
	later(POLICY_RETRY_MS);
	UNTIL(near.askers[0].failures == 1);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &was), 0);
	cr_expect_not_null(strstr(near.askers[0].text, "RLIMIT_NOFILE"));
	exchange(1, 0);
	near_close();
}

/* The far end is too slow by the clock, not by the order of events. */
Test(policy_pool, connecting_takes_too_long)
{
	near_open(false, 1, 1);
	ask(0);
	pass_ms(near.conf.connect_ms);
	run_timers();
	UNTIL(near.pool.conns.used == 0);
	cr_expect_eq(near.ended, 0u);
	pass_ms(POLICY_RETRY_MS);
	run_timers();
	cr_expect_eq(near.pool.conns.used, 1u);
	pass_ms(near.conf.connect_ms);
	run_timers();
	UNTIL(near.askers[0].failures == 1);
	cr_expect_str_eq(
		near.askers[0].text, "the policy server cannot be reached: no answer in time");
	cr_expect_eq(COUNTED(policy_connections), 0u);
	near_close();
}

/* A place that came free was taken by another; then what is kept must go for it. */
Test(policy_pool, a_new_one_is_needed_and_all_are_kept)
{
	near_open(false, 1, 4);
	ask(0);
	UNTIL(far.count == 1 && far_asked(0) == 1);
	far_hang_up(0, false);
	UNTIL(near.pool.conns.used == 0);
	exchange(1, 1);
	ask(2);
	UNTIL(far_asked(1) == 1);
	far_hang_up(1, false);
	while (near.pool.closing == 0)
		ring_turn(near.bed.r, ring_now_us(near.bed.r) + 1000);
	pass_ms(POLICY_RETRY_MS);
	run_timers();
	UNTIL(far.count == 3 && far_asked(2) == 1);
	far_say(2, "action=OK\n\n");
	UNTIL(far.count == 4 && far_asked(3) == 1);
	cr_expect_eq(near.askers[0].replies, 1u);
	cr_expect(far.conns[2].ended);
	far_say(3, "action=OK\n\n");
	UNTIL(near.askers[2].replies == 1);
	near_close();
}

/* ---- what is no reply ---- */

static void no_reply(const char *said, size_t n, const char *why)
{
	near_open(false, 1, 4);
	exchange(0, 0);
	ask(1);
	UNTIL(far_asked(0) == 1);
	cr_assert_eq(write(far.conns[0].fd, said, n), (ssize_t)n);
	UNTIL(near.askers[1].failures == 1);
	cr_expect_str_eq(near.askers[1].text, why);
	UNTIL(far.conns[0].ended);
	cr_expect_eq(COUNTED(policy_retries), 0u);
	exchange(2, 1);
	near_close();
}

Test(policy_pool, garbage)
{
	no_reply("220 mail.example ESMTP\n", 23, "policy reply with a line that is not name=value");
}

Test(policy_pool, no_action)
{
	no_reply("\n", 1, "policy reply without an action");
}

Test(policy_pool, too_long)
{
	char said[POLICY_REPLY_BYTES_MAX + 10];

	memset(said, 'x', sizeof(said));
	no_reply(said, sizeof(said), "policy reply too long");
}

Test(policy_pool, octets_behind_a_reply)
{
	near_open(false, 1, 4);
	ask(0);
	UNTIL(far.count == 1 && far_asked(0) == 1);
	far_say(0, "action=OK\n\naction=REJECT\n\n");
	UNTIL(near.askers[0].replies == 1 && far.conns[0].ended);
	cr_expect_eq(near.askers[0].kind, POLICY_PASS);
	exchange(1, 1);
	near_close();
}

Test(policy_pool, octets_that_nobody_asked_for)
{
	near_open(false, 1, 4);
	exchange(0, 0);
	far_say(0, "action=REJECT\n\n");
	UNTIL(far.conns[0].ended);
	exchange(1, 1);
	cr_expect_eq(near.ended, 2u);
	near_close();
}

/* ---- questions that are taken back ---- */

Test(policy_pool, forgotten_while_it_is_asked)
{
	near_open(false, 1, 4);
	ask(0);
	ask(1);
	UNTIL(far.count == 1 && far_asked(0) == 1);
	forget(0);
	/* The answer to the first must not become the second's. */
	far_say(0, "action=REJECT\n\n");
	UNTIL(far.count == 2 && far_asked(1) == 1);
	far_say(1, "action=OK\n\n");
	UNTIL(near.askers[1].replies == 1);
	cr_expect_eq(near.askers[1].kind, POLICY_PASS);
	cr_expect_eq(near.ended, 1u);
	near_close();
}

Test(policy_pool, forgotten_while_connecting)
{
	near_open(false, 1, 4);
	ask(0);
	ask(1);
	forget(0);
	UNTIL(near.askers[1].q == NULL || (far.count > 0 && far_asked(far.count - 1) == 1));
	far_say(far.count - 1, "action=OK\n\n");
	UNTIL(near.askers[1].replies == 1);
	cr_expect_eq(near.ended, 1u);
	near_close();
}

Test(policy_pool, forgotten_while_it_waits)
{
	near_open(false, 1, 2);
	ask(0);
	ask(1);
	ask(2);
	forget(1);
	ask(3); /* its room is there again */
	UNTIL(far.count == 1 && far_asked(0) == 1);
	far_say(0, "action=OK\n\n");
	UNTIL(near.askers[0].replies == 1 && far_asked(0) == 1);
	far_say(0, "action=OK\n\n");
	UNTIL(near.askers[2].replies == 1 && far_asked(0) == 1);
	far_say(0, "action=OK\n\n");
	UNTIL(near.askers[3].replies == 1);
	near_close();
}

Test(policy_pool, forgotten_before_its_second_try)
{
	near_open(false, 1, 2);
	ask(0);
	UNTIL(far.count == 1 && far_asked(0) == 1);
	far_hang_up(0, false);
	UNTIL(near.pool.conns.used == 0);
	forget(0);
	later(POLICY_RETRY_MS);
	some_turns();
	cr_expect_eq(far.count, 1u);
	cr_expect_eq(near.ended, 0u);
	near_close();
}

/* ---- age ---- */

Test(policy_pool, idle_for_long)
{
	near_open(false, 4, 4);
	exchange(0, 0);
	later(near.conf.idle_ms / 2);
	some_turns();
	cr_expect_not(far.conns[0].ended);
	later(near.conf.idle_ms / 2);
	UNTIL(far.conns[0].ended && near.pool.conns.used == 0);
	exchange(1, 1);
	near_close();
}

Test(policy_pool, open_for_long)
{
	near_open(false, 1, 4);
	near.conf.ttl_ms = 1000;
	exchange(0, 0);
	later(1000);
	UNTIL(far.conns[0].ended);
	/* One that is in use gives its answer first, and nobody who waits gets it. */
	near.conf.ttl_ms = 0;
	ask(1);
	ask(2);
	UNTIL(far.count == 2 && far_asked(1) == 1);
	far_say(1, "action=OK\n\n");
	UNTIL(near.askers[1].replies == 1);
	UNTIL(far.count == 3 && far_asked(2) == 1);
	cr_expect(far.conns[1].ended);
	far_say(2, "action=OK\n\n");
	UNTIL(near.askers[2].replies == 1);
	near_close();
}

/* ---- as a hook: what is asked, and what becomes of each action ---- */

static struct room {
	struct conf conf;
	struct conf_listener listener;
	const struct conf_hook *in_order[1];
	struct hook_core core;
	struct hook_seat seat;
	struct log_buf *log;
	struct hook_word word;
	unsigned woken;
} room;

static void wake(struct hook_seat *seat)
{
	cr_assert_eq(seat, &room.seat);
	room.woken++;
}

/* On top of near: a worker whose one hook asks the far end. */
static void room_open(uint32_t events)
{
	static const struct conf_log to = {.format = LOG_LOGFMT, .level = LOG_INFO};
	struct hook_set *set;

	near_open(false, 2, 1);
	near.conf.events = events;
	near.conf.word = "hook:p";
	near.conf.deadline_ms = 30000;
	near.conf.policy_context = "unit";
	near.conf.mode = events & 1u << HOOK_END_OF_DATA ? HOOK_HOLD_END : HOOK_STREAM;
	memset(&room, 0, sizeof(room));
	room.in_order[0] = &near.conf;
	room.listener =
		(struct conf_listener){.name = "in", .hooks = room.in_order, .hook_count = 1};
	room.conf = (struct conf){.hooks = &near.conf,
		.hook_count = 1,
		.listeners = &room.listener,
		.listener_count = 1};
	room.log = log_buf_new(1u << 16, &to);
	set = hook_set_open(&room.conf, 1, stderr);
	cr_assert_not_null(set);
	cr_assert(hook_core_init(&room.core, &(struct hook_worker_conf){set, 0, 4, wake},
		&near.bed.ss, &near.timers, &near.stats, room.log));
}

static void room_close(void)
{
	hook_forget(&room.core, &room.seat);
	hook_leave(&room.core, &room.seat);
	UNTIL(hook_core_idle(&room.core));
	cr_expect_eq(near.stats.hooks_now, 0u);
	hook_core_fini(&room.core);
	hook_set_close(room.core.set);
	log_buf_free(room.log);
	near_close();
}

static struct ring_addr addr_of(int family, const char *text, uint16_t port)
{
	struct ring_addr a = {0};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};

	if (family == AF_INET6) {
		cr_assert_eq(inet_pton(AF_INET6, text, &in6.sin6_addr), 1);
		memcpy(&a.ss, &in6, a.len = sizeof(in6));
	} else {
		cr_assert_eq(inet_pton(AF_INET, text, &in.sin_addr), 1);
		memcpy(&a.ss, &in, a.len = sizeof(in));
	}
	return a;
}

/* All that an event can have, whatever it is. */
static struct hook_event full_event(enum hook_point point)
{
	static struct ring_addr client, server;
	static struct smtp_path path;

	client = addr_of(AF_INET6, "2001:db8::7", 4321);
	server = addr_of(AF_INET6, "::ffff:192.0.2.25", 25);
	path = (struct smtp_path){
		.mailbox = SPAN_LIT("path@x.test"), .params = SPAN_LIT("SIZE=77")};
	return (struct hook_event){.point = point,
		.sid = 0x51d,
		.tid = 0x71d,
		.client = &client,
		.server = &server,
		.helo = SPAN_LIT("helo.test"),
		.ehlo = true,
		.mechanism = SPAN_LIT("PLAIN"),
		.identity = SPAN_LIT("joe"),
		.path = point == HOOK_MAIL || point == HOOK_RCPT ? &path : NULL,
		.sender = SPAN_LIT("sender@x.test"),
		.only_rcpt = SPAN_LIT("only@y.test"),
		.recipients = 1,
		.bytes = 4711};
}

static enum hook_said put(const struct hook_event *ev)
{
	return hook_ask(&room.core, &room.seat, &room.listener, ev, &room.word);
}

/* Asked on the connection that came last; the request ends with a NUL. */
static const char *asked(void)
{
	UNTIL(far.count > 0 && far_asked(far.count - 1) == 1);
	pile_add(&far.conns[far.count - 1].in, "", 1);
	return (const char *)far.conns[far.count - 1].in.p;
}

static bool tells(const char *request, const char *line)
{
	char text[200];

	snprintf(text, sizeof(text), "\n%s\n", line);
	return strstr(request, text) != NULL;
}

static enum hook_said answer(const struct hook_event *ev, const char *action)
{
	char reply[300];
	unsigned before = room.woken;

	cr_assert_eq(put(ev), HOOK_LATER);
	(void)asked();
	snprintf(reply, sizeof(reply), "action=%s\n\n", action);
	far_say(far.count - 1, reply);
	UNTIL(room.woken > before);
	return put(ev);
}

static const char *logged(void)
{
	static char text[1u << 16];
	struct iovec iov[2];
	size_t n;

	some_turns();
	n = log_buf_peek(room.log, iov);
	cr_assert(n < sizeof(text));
	memcpy(text, iov[0].iov_base, iov[0].iov_len);
	memcpy(text + iov[0].iov_len, iov[1].iov_base, n - iov[0].iov_len);
	text[n] = '\0';
	log_buf_take(room.log, n);
	return text;
}

Test(policy, what_each_event_tells)
{
	static const struct {
		enum hook_point point;
		const char *lines[6];
	} rows[] = {
		{HOOK_CONNECT, {"protocol_state=CONNECT", "helo_name=", "sender=", "size=0"}},
		{HOOK_EHLO, {"protocol_state=EHLO", "helo_name=helo.test", "sender=", "queue_id="}},
		{HOOK_MAIL, {"protocol_state=MAIL", "sender=path@x.test", "recipient=", "size=77",
				    "queue_id=000000000000071d"}},
		{HOOK_RCPT, {"protocol_state=RCPT", "sender=sender@x.test", "recipient=path@x.test",
				    "recipient_count=0", "size=77"}},
		{HOOK_DATA, {"protocol_state=DATA", "sender=sender@x.test", "recipient=only@y.test",
				    "recipient_count=1", "size=77"}},
		{HOOK_END_OF_DATA, {"protocol_state=END-OF-MESSAGE", "recipient=only@y.test",
					   "size=4711", "queue_id=000000000000071d"}},
	};
	static const char *const always[] = {"client_address=2001:db8::7", "client_port=4321",
		"client_name=unknown", "reverse_client_name=unknown", "server_address=192.0.2.25",
		"server_port=25", "instance=51d.71d", "policy_context=unit", "protocol_name=ESMTP"};

	room_open(0x7f & ~(1u << HOOK_AUTH));
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct hook_event ev = full_event(rows[i].point);
		const char *request;

		cr_assert_eq(put(&ev), HOOK_LATER);
		request = asked();
		for (size_t k = 0; k < 6 && rows[i].lines[k]; k++)
			cr_expect(tells(request, rows[i].lines[k]), "%s not in %s",
				rows[i].lines[k], request);
		for (size_t k = 0; k < ARRAY_LEN(always); k++)
			cr_expect(tells(request, always[k]), "%s not in %s", always[k], request);
		cr_expect_eq(tells(request, "sasl_username=joe"), ev.point != HOOK_CONNECT);
		far_say(0, "action=OK\n\n");
		UNTIL(room.woken == i + 1);
		cr_expect_eq(put(&ev), HOOK_PASS);
	}
	room_close();
}

Test(policy, peers_of_other_kinds)
{
	struct hook_event ev = full_event(HOOK_EHLO);
	struct ring_addr local = {.len = sizeof(sa_family_t)};
	const char *request;

	local.sa.sa_family = AF_UNIX;
	ev.client = &local;
	ev.server = NULL;
	ev.ehlo = false;
	room_open(1u << HOOK_EHLO);
	cr_assert_eq(put(&ev), HOOK_LATER);
	request = asked();
	cr_expect(tells(request, "protocol_state=HELO"));
	cr_expect(tells(request, "protocol_name=SMTP"));
	cr_expect(tells(request, "client_address=127.0.0.1"));
	cr_expect(tells(request, "client_name=localhost"));
	cr_expect(tells(request, "client_port=0"));
	cr_expect(tells(request, "server_address="));
	room_close();
}

/* All of it in every state; nothing without TLS. A name only of a certificate that is good. */
Test(policy, what_is_told_of_tls)
{
	static const char *const always[] = {"encryption_protocol=TLSv1.3",
		"encryption_cipher=TLS_AES_128_GCM_SHA256", "encryption_keysize=128",
		"tls_sni=mx.example", "ccert_issuer=", "ccert_pubkey_fingerprint="};
	static const char *const clear[] = {"encryption_protocol=", "encryption_cipher=",
		"encryption_keysize=0", "tls_sni=", "ccert_subject=", "ccert_fingerprint="};
	struct hook_event ev = full_event(HOOK_EHLO);
	struct hook_tls tls = some_tls();
	const char *request;

	room_open(1u << HOOK_EHLO);
	for (unsigned i = 0; i < 4; i++) {
		ev.tls = i < 3 ? &tls : NULL;
		tls.verified = i == 0;
		if (i == 2) {
			tls.certified = false;
			tls.subject = tls.sha256 = SPAN_NONE;
		}
		cr_assert_eq(put(&ev), HOOK_LATER);
		request = asked();
		for (size_t k = 0; k < ARRAY_LEN(always); k++)
			cr_expect(tells(request, (i < 3 ? always : clear)[k]), "%u %s: %s", i,
				(i < 3 ? always : clear)[k], request);
		cr_expect(tells(
			request, i == 0 ? "ccert_subject=Some+0AOne+2B1+C3+A9" : "ccert_subject="));
		cr_expect(tells(request,
			i < 2 ? "ccert_fingerprint=AB:CD:00:00:00:00:00:00:00:00:00:00:00:00:00:00:"
				"00:00:00:00:00:00:00:00:00:00:00:00:00:00:01:EF"
			      : "ccert_fingerprint="));
		far_say(0, "action=OK\n\n");
		UNTIL(room.woken == i + 1);
		cr_expect_eq(put(&ev), HOOK_PASS);
	}
	room_close();
}

/* As long as it can be, and each octet needs three. */
Test(policy, a_long_name_in_a_certificate)
{
	static uint8_t name[TLS_SUBJECT_MAX];
	struct hook_event ev = full_event(HOOK_EHLO);
	struct hook_tls tls = some_tls();
	char line[3 * TLS_SUBJECT_MAX + 32] = "\nccert_subject=";

	memset(name, 0xff, sizeof(name));
	for (unsigned i = 0; i < sizeof(name); i++)
		strcat(line, "+FF");
	strcat(line, "\n");
	tls.subject = span_of(name, sizeof(name));
	ev.tls = &tls;
	room_open(1u << HOOK_EHLO);
	cr_assert_eq(put(&ev), HOOK_LATER);
	cr_expect_not_null(strstr(asked(), line));
	room_close();
}

/* Only asked at RCPT; MAIL is looked at for its size, and a message without one has none. */
Test(policy, the_size_is_the_message_s)
{
	struct hook_event mail = full_event(HOOK_MAIL), rcpt = full_event(HOOK_RCPT);
	struct smtp_path bare = {.mailbox = SPAN_LIT("a@b.test")};

	room_open(1u << HOOK_RCPT);
	cr_expect(hook_wanted(&room.core, &room.listener, HOOK_MAIL));
	cr_assert_eq(put(&mail), HOOK_PASS);
	cr_assert_eq(put(&rcpt), HOOK_LATER);
	cr_expect(tells(asked(), "size=77"));
	far_say(0, "action=OK\n\n");
	UNTIL(room.woken == 1);
	cr_expect_eq(put(&rcpt), HOOK_PASS);
	mail.path = &bare;
	cr_assert_eq(put(&mail), HOOK_PASS);
	cr_assert_eq(put(&rcpt), HOOK_LATER);
	cr_expect(tells(asked(), "size=0"));
	room_close();
}

Test(policy, actions)
{
	static const struct {
		const char *action;
		enum hook_said said;
		unsigned code;
		const char *enhanced, *text;
		bool drop;
	} rows[] = {
		{"DUNNO", HOOK_PASS, 0, NULL, NULL, false},
		{"REJECT", HOOK_NO, 554, "5.7.1", "Access denied", false},
		{"reject 5.1.1 gone", HOOK_NO, 554, "5.1.1", "gone", false},
		{"DEFER wait", HOOK_NO, 450, "4.7.1", "wait", false},
		{"550 5.1.1 gone", HOOK_NO, 550, "5.1.1", "gone", false},
		{"452 4.2.2 full", HOOK_NO, 452, "4.2.2", "full", false},
		{"421 4.3.2 down", HOOK_NO, 421, "4.3.2", "down", true},
		{"521 5.7.1 never", HOOK_NO, 421, "4.7.1", "never", true},
		{"DEFER_IF_PERMIT soon", HOOK_NO, 450, "4.7.1", "soon", false},
		{"DEFER_IF_REJECT", HOOK_PASS, 0, NULL, NULL, false},
		{"DISCARD why", HOOK_DISCARD, 250, "2.0.0", "message accepted", false},
		{"WARN look", HOOK_PASS, 0, NULL, NULL, false},
		{"INFO look", HOOK_PASS, 0, NULL, NULL, false},
		{"PREPEND nothing", HOOK_PASS, 0, NULL, NULL, false},
		{"HOLD", HOOK_NO, 451, "4.3.0", NULL, false},
		{"FILTER x:y", HOOK_NO, 451, "4.3.0", NULL, false},
		{"permit_sasl_authenticated", HOOK_NO, 451, "4.3.0", NULL, false},
	};
	const struct hook_event ev = full_event(HOOK_RCPT);

	room_open(1u << HOOK_RCPT);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		cr_expect_eq(answer(&ev, rows[i].action), rows[i].said, "%s", rows[i].action);
		cr_expect_null(hook_take_edits(&room.seat));
		if (rows[i].said == HOOK_PASS)
			continue;
		cr_expect_eq(room.word.reply->code, rows[i].code, "%s", rows[i].action);
		cr_expect_str_eq(room.word.reply->enhanced, rows[i].enhanced, "%s", rows[i].action);
		if (rows[i].text)
			cr_expect_str_eq(room.word.reply->text, rows[i].text);
		cr_expect_eq(room.word.drop, rows[i].drop, "%s", rows[i].action);
		hook_forget_replies(&room.core, &room.seat);
	}
	cr_expect_eq(near.stats.hook_failures, 3u);
	cr_expect_eq(far.count, 1u);
	room_close();
}

/* One complaint a second and no more; what a server wants logged is logged. */
Test(policy, what_the_log_gets)
{
	const struct hook_event ev = full_event(HOOK_RCPT);
	const char *text;

	room_open(1u << HOOK_RCPT);
	cr_expect_eq(answer(&ev, "REDIRECT a@b.test"), HOOK_NO);
	hook_forget_replies(&room.core, &room.seat);
	cr_expect_eq(answer(&ev, "nonsense\x01"), HOOK_NO);
	hook_forget_replies(&room.core, &room.seat);
	cr_expect_eq(answer(&ev, "INFO hello"), HOOK_PASS);
	text = logged();
	cr_expect_not_null(strstr(text, "hook=p text=\"rcpt: REDIRECT: cannot be honoured here\""),
		"%s", text);
	cr_expect_null(strstr(text, "nonsense"), "%s", text);
	cr_expect_not_null(
		strstr(text, "INFO sid=000000000000051d tid=000000000000071d hello"), "%s", text);
	room_close();
}

Test(policy, a_header_field_on_top)
{
	const struct hook_event rcpt = full_event(HOOK_RCPT), end = full_event(HOOK_END_OF_DATA);
	struct hook_edits *edits;
	struct hook_edit e;
	size_t at = 0;

	room_open(1u << HOOK_RCPT | 1u << HOOK_END_OF_DATA);
	cr_expect_eq(answer(&rcpt, "PREPEND X-Seen: yes: by us"), HOOK_PASS);
	edits = hook_take_edits(&room.seat);
	cr_assert(hook_edits_next(edits, &at, &e));
	cr_expect_eq(e.kind, EDIT_HEADER_INSERT);
	cr_expect_eq(e.index, 0u);
	cr_expect(span_eq(e.name, SPAN_LIT("X-Seen")));
	cr_expect(span_eq(e.value, SPAN_LIT(" yes: by us")));
	cr_expect_not(hook_edits_next(edits, &at, &e));
	hook_edits_free(edits);
	cr_expect_eq(answer(&end, "PREPEND X-Seen: yes"), HOOK_PASS);
	cr_expect_null(hook_take_edits(&room.seat));
	cr_expect_eq(near.stats.hook_failures, 0u);
	cr_expect_not_null(strstr(logged(), "end-of-data: PREPEND: too late"));
	room_close();
}

Test(policy, a_header_field_whose_session_goes)
{
	const struct hook_event ev = full_event(HOOK_RCPT);

	room_open(1u << HOOK_RCPT);
	cr_assert_eq(put(&ev), HOOK_LATER);
	(void)asked();
	far_say(0, "action=PREPEND X: y\n\n");
	UNTIL(room.woken == 1);
	room_close();
}

/* ---- as a hook: no answer ---- */

Test(policy, not_before_its_deadline)
{
	const struct hook_event ev = full_event(HOOK_RCPT);

	room_open(1u << HOOK_RCPT);
	near.conf.deadline_ms = 1000;
	cr_assert_eq(put(&ev), HOOK_LATER);
	(void)asked();
	later(1000);
	UNTIL(room.woken == 1);
	cr_expect_eq(put(&ev), HOOK_NO);
	cr_expect_eq(room.word.reply->code, 451u);
	cr_expect_eq(near.stats.hook_deadlines, 1u);
	UNTIL(far.conns[0].ended);
	far.conns[0].in.n = 0;
	cr_expect_eq(answer(&ev, "OK"), HOOK_PASS);
	cr_expect_eq(far.count, 2u);
	room_close();
}

Test(policy, cannot_be_reached)
{
	const struct hook_event ev = full_event(HOOK_RCPT);

	room_open(1u << HOOK_RCPT);
	near.conf.on_failure = HOOK_FAILS_ACCEPT;
	close(far.lfd);
	far.lfd = -1;
	cr_assert_eq(put(&ev), HOOK_LATER);
	some_turns();
	cr_expect_eq(room.woken, 0u);
	later(POLICY_RETRY_MS);
	UNTIL(room.woken == 1);
	cr_expect_eq(put(&ev), HOOK_PASS);
	cr_expect_eq(near.stats.hook_failures, 1u);
	cr_expect_not_null(strstr(
		logged(), "rcpt: the policy server cannot be reached: nobody listens there"));
	room_close();
}

static void session_goes(unsigned turns, bool hang_up)
{
	const struct hook_event ev = full_event(HOOK_RCPT);

	room_open(1u << HOOK_RCPT);
	cr_assert_eq(put(&ev), HOOK_LATER);
	while (turns-- > 0)
		turn();
	if (hang_up) {
		(void)asked();
		far_hang_up(0, true);
		UNTIL(near.stats.policy_connections == 1 && near.timers.armed == 2);
	}
	room_close();
	cr_expect_eq(room.woken, 0u);
}

Test(policy, the_session_goes_while_connecting)
{
	session_goes(0, false);
}

Test(policy, the_session_goes_while_asked)
{
	session_goes(20, false);
}

Test(policy, the_session_goes_before_the_second_try)
{
	session_goes(0, true);
}

Test(policy, more_than_there_is_room_for)
{
	const struct hook_event ev = full_event(HOOK_RCPT);
	struct hook_seat others[4] = {0};
	struct hook_word word;

	room_open(1u << HOOK_RCPT);
	for (int i = 0; i < 3; i++)
		cr_expect_eq(
			hook_ask(&room.core, &others[i], &room.listener, &ev, &word), HOOK_LATER);
	cr_expect_eq(hook_ask(&room.core, &others[3], &room.listener, &ev, &word), HOOK_NO);
	cr_expect_eq(word.reply->code, 451u);
	cr_expect_eq(near.stats.policy_queue_full, 1u);
	cr_expect_eq(near.stats.hook_failures, 1u);
	cr_expect_not_null(strstr(logged(), "rcpt: too many questions are under way"));
	for (int i = 0; i < 4; i++) {
		hook_forget(&room.core, &others[i]);
		hook_leave(&room.core, &others[i]);
	}
	room_close();
}

Test(policy, events_that_it_has_not)
{
	static const uint32_t bad[] = {HOOK_AUTH, HOOK_STARTTLS, HOOK_TRANSACTION, HOOK_BODY};
	char said[512];

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct conf_hook hook = {.name = "p",
			.type = HOOK_POLICY,
			.where = "file:1:2",
			.events = 1u << bad[i] | 1u << HOOK_RCPT};
		struct conf conf = {.hooks = &hook, .hook_count = 1};
		FILE *err = fmemopen(said, sizeof(said), "w");

		cr_expect_null(hook_set_open(&conf, 1, err));
		fclose(err);
		cr_expect_str_eq(
			said, "file:1:2: hook `p`: policy delegation knows no such event\n");
	}
}
