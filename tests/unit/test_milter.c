/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The milter client on a real ring: the test is the mail session on one side and the filter on the
 * other. Every packet that leaves is looked at, and whatever a filter may say at whatever step is
 * said: what it is allowed to by tables, the rest by a seeded random one.
 */
#include "engine/hook/milter/milter_int.h"

#include "tests/unit/bed.h"
#include "tests/unit/some_tls.h"

#include <sys/un.h>

enum { SESSIONS = 4, FARS = 8 };

static struct conf conf;
static struct conf_hook hook;
static const struct conf_hook *in_order[1] = {&hook};
static struct conf_listener listener = {.name = "in", .hooks = in_order, .hook_count = 1};

static struct bed bed;
static struct timers timers;
static struct stat_table stats;
static struct log_buf *log_lines;
static struct hook_core core;
static struct hook_seat seats[SESSIONS], *seat = &seats[0];
static unsigned woken[SESSIONS];
static int far_listener;
static uint64_t tid = 0x71d;

/* The filter's end of a connection. */
static struct far {
	int fd;
	struct pile in;
	size_t at;
} fars[FARS], *far;
static unsigned far_count;

static void wake(struct hook_seat *s)
{
	cr_assert(s >= seats && s < seats + SESSIONS);
	woken[s - seats]++;
}

/* ---- a worker ---- */

static void prepare(void)
{
	uint16_t port;

	far_listener = tcp_listener(&port);
	fd_nonblock(far_listener);
	hook = (struct conf_hook){.name = "filter",
		.type = HOOK_MILTER,
		.word = "hook:filter",
		.where = "file:1:2",
		.deadline_ms = 20000,
		.content_deadline_ms = 40000,
		.mode = HOOK_HOLD_ALL,
		.endpoint = {.addr = loop_addr(port), .text = "127.0.0.1"},
		.connections = 3,
		.queue = 1,
		.connect_ms = 10000};
	conf.hooks = &hook;
	conf.hook_count = 1;
	conf.listeners = &listener;
	conf.listener_count = 1;
	conf.hold.message = 1u << 20;
}

static void begin(void)
{
	static const struct conf_log to = {.format = LOG_LOGFMT, .level = LOG_INFO};
	struct ring_conf rc = bed_conf();
	struct hook_set *set;

	bed_open(&bed, &rc, 4096, 512);
	set = hook_set_open(&conf, 1, stderr);
	cr_assert_not_null(set);
	timers_init(&timers, ring_now_us(bed.r) / 1000);
	log_lines = log_buf_new(1u << 16, &to);
	cr_assert(hook_core_init(&core, &(struct hook_worker_conf){set, 0, SESSIONS, wake}, &bed.ss,
		&timers, &stats, log_lines));
}

static void turn(void)
{
	bed_turn(&bed);
	timers_run(&timers, ring_now_us(bed.r) / 1000);
}

#define UNTIL(cond)                                                             \
	do {                                                                    \
		unsigned left_ = BED_TURNS_MAX;                                 \
		while (!(cond)) {                                               \
			turn();                                                 \
			cr_assert(left_-- > 0, "stuck waiting for: %s", #cond); \
		}                                                               \
	} while (0)

static void turns(unsigned n)
{
	while (n-- > 0)
		turn();
}

/* The log's lines so far, taken out. */
static const char *logged(void)
{
	static char text[1u << 16];
	struct iovec iov[2];
	size_t n;

	turns(2);
	n = log_buf_peek(log_lines, iov);
	cr_assert(n < sizeof(text));
	memcpy(text, iov[0].iov_base, iov[0].iov_len);
	memcpy(text + iov[0].iov_len, iov[1].iov_base, n - iov[0].iov_len);
	text[n] = '\0';
	log_buf_take(log_lines, n);
	return text;
}

static void said_in_log(const char *what)
{
	const char *text = logged();

	cr_expect(strstr(text, what) != NULL, "`%s` is not in: %s", what, text);
}

static void end(void)
{
	for (size_t i = 0; i < SESSIONS; i++) {
		hook_forget(&core, &seats[i]);
		hook_leave(&core, &seats[i]);
	}
	cr_expect_eq(stats.hooks_now, 0u);
	UNTIL(hook_core_idle(&core));
	cr_expect_eq(stats.milters_now, 0u);
	for (unsigned i = 0; i < far_count; i++) {
		if (fars[i].fd >= 0)
			close(fars[i].fd);
		pile_free(&fars[i].in);
	}
	hook_core_fini(&core);
	cr_expect_eq(timers.armed, 0u);
	hook_set_close(core.set);
	log_buf_free(log_lines);
	bed_close(&bed);
	close(far_listener);
}

/* ---- the session ---- */

static struct ring_addr client_addr(void)
{
	struct ring_addr a = loop_addr(4321);
	struct sockaddr_in *in = (struct sockaddr_in *)&a.ss;

	inet_pton(AF_INET, "192.0.2.1", &in->sin_addr);
	return a;
}

static struct hook_event event(enum hook_point point, const char *about)
{
	static struct ring_addr client, server;
	static struct smtp_path path;
	char *params = about ? strchr(about, ' ') : NULL;
	size_t n = about ? (params ? (size_t)(params - about) : strlen(about)) : 0;

	client = client_addr();
	server = loop_addr(25);
	path = (struct smtp_path){.mailbox = span_of(about, n),
		.null = n == 0,
		.params = params ? span_str(params + 1) : SPAN_NONE};
	return (struct hook_event){.point = point,
		.sid = 0x51d,
		.tid = tid,
		.client = &client,
		.server = &server,
		.helo = point == HOOK_CONNECT ? SPAN_NONE : SPAN_LIT("client.example"),
		.path = point == HOOK_MAIL || point == HOOK_RCPT ? &path : NULL,
		.ehlo = true};
}

static struct hook_word word;

static enum hook_said ask(enum hook_point point, const char *about)
{
	struct hook_event ev = event(point, about);
	enum hook_said said = hook_ask(&core, seat, &listener, &ev, &word);

	/* In mode hold-all whoever is asked wants to be fed first; `show` has done so. */
	return said == HOOK_FEED ? hook_ask(&core, seat, &listener, &ev, &word) : said;
}

/* The answer to a question that waits. */
static enum hook_said answer(enum hook_point point, const char *about)
{
	struct hook_event ev = event(point, about);

	UNTIL(hook_answered(seat));
	return hook_ask(&core, seat, &listener, &ev, &word);
}

static void tell(enum hook_point point)
{
	struct hook_event ev = event(point, NULL);

	hook_tell(&core, seat, &listener, &ev);
}

/* Octets of the message, as the session feeds them. */
static void show(struct span octets)
{
	struct hook_event ev = event(HOOK_BODY, NULL);

	ev.data = octets;
	if (hook.mode == HOOK_HOLD_ALL && !seat->feeding) {
		struct hook_event end_ev = event(HOOK_END_OF_DATA, NULL);

		cr_assert_eq(hook_ask(&core, seat, &listener, &end_ev, &word), HOOK_FEED);
	}
	hook_show(&core, seat, &listener, &ev);
}

static void says(enum hook_said said, uint32_t code, const char *enhanced, const char *text)
{
	cr_assert(said == HOOK_NO || said == HOOK_DISCARD, "said %d", said);
	cr_expect_eq(word.reply->code, code, "%u", word.reply->code);
	cr_expect_str_eq(word.reply->enhanced, enhanced);
	cr_expect_str_eq(word.reply->text, text);
}

/* ---- the filter ---- */

static void far_accept(void)
{
	int fd;

	UNTIL((fd = accept4(far_listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0);
	cr_assert(far_count < FARS);
	far = &fars[far_count++];
	*far = (struct far){.fd = fd};
}

static bool far_has(size_t n)
{
	long got = peer_read(far->fd, &far->in, 1 << 16);

	(void)got;
	return far->in.n - far->at >= n;
}

static uint32_t u32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The next packet: its command, and the payload in `got` (with a NUL behind it). */
static char got[70000];
static size_t got_n;

static char packet(void)
{
	const uint8_t *p;
	char cmd;

	UNTIL(far_has(5));
	got_n = u32(far->in.p + far->at) - 1;
	cr_assert(got_n < sizeof(got));
	UNTIL(far_has(5 + got_n));
	p = far->in.p + far->at;
	cmd = (char)p[4];
	memcpy(got, p + 5, got_n);
	got[got_n] = '\0';
	far->at += 5 + got_n;
	return cmd;
}

/* The next packet but macros. */
static void expect(char cmd)
{
	char c;

	while ((c = packet()) == 'D')
		;
	cr_assert_eq(c, cmd, "%c instead of %c", c, cmd);
}

static bool got_is(const char *octets, size_t n)
{
	return got_n == n && memcmp(got, octets, n) == 0;
}
#define EXPECT(cmd, octets)                                                                   \
	do {                                                                                  \
		expect(cmd);                                                                  \
		cr_expect(got_is(octets, sizeof(octets) - 1), "%c has %zu octets: %s", (cmd), \
			got_n, got);                                                          \
	} while (0)

static bool far_gone(void)
{
	struct pile rest = {0};
	long n = peer_read(far->fd, &rest, 1 << 16);

	pile_free(&rest);
	return n < 0;
}

static void far_put(char kind, const void *payload, size_t n)
{
	uint8_t head[5] = {(uint8_t)((n + 1) >> 24), (uint8_t)((n + 1) >> 16),
		(uint8_t)((n + 1) >> 8), (uint8_t)(n + 1), (uint8_t)kind};

	cr_assert_eq(send(far->fd, head, 5, MSG_NOSIGNAL), 5);
	cr_assert_eq(send(far->fd, payload, n, MSG_NOSIGNAL), (ssize_t)n);
}
#define FAR_PUT(kind, octets) far_put(kind, octets, sizeof(octets) - 1)

static void far_close(void)
{
	close(far->fd);
	far->fd = -1;
}

static void negotiated(uint32_t version, uint32_t actions, uint32_t protocol)
{
	uint32_t numbers[3] = {htonl(version), htonl(actions), htonl(protocol)};

	expect('O');
	far_put('O', numbers, 12);
}

static void expect_continue(char cmd)
{
	expect(cmd);
	FAR_PUT('c', "");
}

/* A session whose filter wants everything, up to EHLO. */
static void opened_with(uint32_t protocol)
{
	cr_assert_eq(ask(HOOK_CONNECT, NULL), HOOK_LATER);
	far_accept();
	negotiated(6, milter_offer_for((enum milter_mode)hook.mode).actions, protocol);
	if (!(protocol & (MILTER_P_NOCONNECT | MILTER_P_NR_CONN)))
		expect_continue('C');
	cr_assert_eq(answer(HOOK_CONNECT, NULL), HOOK_PASS);
}

static void opened(void)
{
	opened_with(MILTER_P_SKIP | MILTER_P_HDR_LEADSPC);
	cr_assert_eq(ask(HOOK_EHLO, NULL), HOOK_LATER);
	expect_continue('H');
	cr_assert_eq(answer(HOOK_EHLO, NULL), HOOK_PASS);
}

static void asked(enum hook_point point, const char *about, char cmd)
{
	cr_assert_eq(ask(point, about), HOOK_LATER);
	expect_continue(cmd);
	cr_assert_eq(answer(point, about), HOOK_PASS);
}

/* ... up to DATA. */
static void enveloped(void)
{
	asked(HOOK_MAIL, "a@x.example", 'M');
	asked(HOOK_RCPT, "b@y.example", 'R');
	asked(HOOK_DATA, NULL, 'T');
}

static const char message_text[] = "Subject: one\r\n two\r\nX-Empty:\r\n\r\nbody\r\n";

/* ... up to the end of the body, which is not answered yet. */
static void at_end(void)
{
	enveloped();
	show(span_str(message_text));
	cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_LATER);
	expect_continue('L');
	expect_continue('L');
	expect_continue('N');
	expect_continue('B');
	expect('E');
}

/* ---- what a filter sees ---- */

Test(milter, every_step)
{
	prepare();
	begin();
	cr_assert_eq(ask(HOOK_CONNECT, NULL), HOOK_LATER);
	far_accept();
	negotiated(6, 0, 0);
	EXPECT('C', "[192.0.2.1]\0004\x10\xe1"
		    "192.0.2.1\0");
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_CONNECT, NULL), HOOK_PASS);
	cr_assert_eq(ask(HOOK_EHLO, NULL), HOOK_LATER);
	EXPECT('H', "client.example\0");
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_EHLO, NULL), HOOK_PASS);
	cr_assert_eq(ask(HOOK_MAIL, "a@x.example SIZE=10 BODY=8BITMIME"), HOOK_LATER);
	EXPECT('M', "<a@x.example>\0SIZE=10\0BODY=8BITMIME\0");
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_MAIL, "a@x.example"), HOOK_PASS);
	cr_assert_eq(ask(HOOK_RCPT, "b@y.example NOTIFY=NEVER"), HOOK_LATER);
	EXPECT('R', "<b@y.example>\0NOTIFY=NEVER\0");
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_RCPT, "b@y.example"), HOOK_PASS);
	asked(HOOK_DATA, NULL, 'T');
	show(span_str(message_text));
	cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_LATER);
	EXPECT('L', "Subject\0one\n two\0");
	FAR_PUT('c', "");
	EXPECT('L', "X-Empty\0\0");
	FAR_PUT('c', "");
	EXPECT('N', "");
	FAR_PUT('c', "");
	EXPECT('B', "body\r\n");
	FAR_PUT('c', "");
	EXPECT('E', "");
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	cr_expect_null(hook_take_edits(seat));
	/* It was told of the message's end: no abort, the next one follows. */
	tell(HOOK_TRANSACTION);
	tid++;
	asked(HOOK_MAIL, "", 'M');
	cr_expect(got_is("<>\0", 3));
	tell(HOOK_CLOSE);
	expect('A');
	expect('Q');
	UNTIL(far_gone());
	cr_expect_eq(stats.milter_messages, 2u);
	cr_expect_eq(stats.milter_failures, 0u);
	end();
}

static void macros_of(char cmd, const char *want, size_t n)
{
	cr_assert_eq(packet(), 'D');
	cr_assert_eq(got[0], cmd);
	cr_expect(got_n == n + 1 && memcmp(got + 1, want, n) == 0, "macros of %c: %zu octets", cmd,
		got_n);
}
#define MACROS_OF(cmd, want) macros_of(cmd, want, sizeof(want) - 1)

Test(milter, usual_macros)
{
	char host[256] = "", want[600];
	size_t n;

	prepare();
	begin();
	gethostname(host, sizeof(host) - 1);
	n = (size_t)snprintf(want, sizeof(want),
		"j|%s|{daemon_name}|in|{daemon_addr}|127.0.0.1|{daemon_port}|25|v|ringpost %s|_|"
		"[192.0.2.1]|{client_name}|[192.0.2.1]|{client_addr}|192.0.2.1|{client_port}|4321|"
		"{client_ptr}|unknown|",
		host, RINGPOST_VERSION);
	for (size_t i = 0; i < n; i++)
		want[i] = want[i] == '|' ? '\0' : want[i];
	cr_assert_eq(ask(HOOK_CONNECT, NULL), HOOK_LATER);
	far_accept();
	negotiated(6, 0, MILTER_P_NOHELO);
	macros_of('C', want, n);
	expect_continue('C');
	cr_assert_eq(answer(HOOK_CONNECT, NULL), HOOK_PASS);
	cr_assert_eq(ask(HOOK_EHLO, NULL), HOOK_PASS);
	cr_assert_eq(ask(HOOK_MAIL, "a@x.example"), HOOK_LATER);
	MACROS_OF('M', "i\000000000000000071d\0{mail_addr}\0a@x.example\0{mail_host}\0x.example\0"
		       "{mail_mailer}\0smtp\0");
	expect_continue('M');
	cr_assert_eq(answer(HOOK_MAIL, "a@x.example"), HOOK_PASS);
	cr_assert_eq(ask(HOOK_RCPT, "b@y.example"), HOOK_LATER);
	MACROS_OF('R', "i\000000000000000071d\0{rcpt_addr}\0b@y.example\0{rcpt_host}\0y.example\0"
		       "{rcpt_mailer}\0smtp\0");
	expect_continue('R');
	cr_assert_eq(answer(HOOK_RCPT, "b@y.example"), HOOK_PASS);
	cr_assert_eq(ask(HOOK_DATA, NULL), HOOK_LATER);
	MACROS_OF('T', "i\000000000000000071d\0");
	end();
}

/* An EHLO whose macros are these: "name|value|..."; "": there is no packet of them. */
static void ehlo_macros(const struct hook_tls *tls, const char *macros)
{
	struct hook_event ev = event(HOOK_EHLO, NULL);
	char want[300];
	size_t n = strlen(macros);

	ev.tls = tls;
	cr_assert_eq(hook_ask(&core, seat, &listener, &ev, &word), HOOK_LATER);
	for (size_t i = 0; i < n; i++)
		want[i] = macros[i] == '|' ? '\0' : macros[i];
	if (n > 0)
		macros_of('H', want, n);
	cr_assert_eq(packet(), 'H');
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_EHLO, NULL), HOOK_PASS);
}

#define TLS_MACROS "{tls_version}|TLSv1.3|{cipher}|TLS_AES_128_GCM_SHA256|{cipher_bits}|128|"

/* At HELO, as Postfix sends them, and {verify}. The name only of a certificate that is good; what
 * is not printable is no reason to have none. */
Test(milter, macros_of_tls)
{
	struct hook_tls tls = some_tls();

	prepare();
	begin();
	opened_with(0);
	ehlo_macros(NULL, "");
	ehlo_macros(&tls, TLS_MACROS "{cert_subject}|Some?One+1??|{verify}|OK|");
	tls.verified = false;
	ehlo_macros(&tls, TLS_MACROS "{verify}|FAIL|");
	tls.certified = false;
	tls.subject = tls.sha256 = SPAN_NONE;
	ehlo_macros(&tls, TLS_MACROS "{verify}|NOT|");
	listener.tls.client_cert = TLS_CLIENT_OPTIONAL;
	ehlo_macros(&tls, TLS_MACROS "{verify}|NO|");
	ehlo_macros(NULL, "");
	end();
}

/* As the filter has listed them; MAIL tells of the session anew. */
Test(milter, macros_of_tls_at_mail)
{
	static const char answer_o[] =
		"\0\0\0\6\0\0\1\0\0\0\0\0"
		"\0\0\0\1\0"
		"\0\0\0\2{cert_subject} {verify} {cert_issuer} {cipher_bits}\0";
	struct hook_event ev;
	struct hook_tls tls = some_tls();

	prepare();
	begin();
	cr_assert_eq(ask(HOOK_CONNECT, NULL), HOOK_LATER);
	far_accept();
	expect('O');
	far_put('O', answer_o, sizeof(answer_o) - 1);
	expect_continue('C');
	cr_assert_eq(answer(HOOK_CONNECT, NULL), HOOK_PASS);
	ehlo_macros(&tls, "");
	ev = event(HOOK_MAIL, "a@x.example");
	ev.tls = &tls;
	cr_assert_eq(hook_ask(&core, seat, &listener, &ev, &word), HOOK_LATER);
	MACROS_OF('M', "{cert_subject}\0Some?One+1??\0{verify}\0OK\0{cipher_bits}\000128\0");
	expect_continue('M');
	cr_assert_eq(answer(HOOK_MAIL, "a@x.example"), HOOK_PASS);
	end();
}

/* Behind our own STARTTLS the filter is asked on, about a client that has said nothing yet; behind
 * one that is carried unread it is not. */
Test(milter, behind_starttls)
{
	const struct hook_tls tls = some_tls();

	prepare();
	begin();
	listener.starttls = STARTTLS_OFFER;
	opened();
	enveloped();
	tell(HOOK_STARTTLS);
	expect('A');
	ehlo_macros(&tls, TLS_MACROS "{cert_subject}|Some?One+1??|{verify}|OK|");
	tid++;
	enveloped();
	cr_expect_eq(stats.milter_connections, 1u);
	listener.starttls = STARTTLS_PASSTHROUGH;
	tell(HOOK_STARTTLS);
	expect('A');
	expect('Q');
	UNTIL(far_gone());
	tid++;
	cr_expect_eq(ask(HOOK_MAIL, "a@x.example"), HOOK_PASS);
	cr_expect_eq(stats.milter_connections, 1u);
	end();
}

Test(milter, the_filters_own_macros)
{
	/* MAIL: two of ours, one of nobody's; RCPT: none; the end of the body: what was said
	 * before. */
	static const char answer_o[] = "\0\0\0\6\0\0\1\0\0\0\0\3"
				       "\0\0\0\2{client_addr},  {nobody} {mail_addr}\0"
				       "\0\0\0\3\0"
				       "\0\0\0\5{rcpt_addr} {auth_type}\0";
	struct hook_event ev;

	prepare();
	begin();
	cr_assert_eq(ask(HOOK_CONNECT, NULL), HOOK_LATER);
	far_accept();
	expect('O');
	far_put('O', answer_o, sizeof(answer_o) - 1);
	cr_assert_eq(answer(HOOK_CONNECT, NULL), HOOK_PASS);
	ev = event(HOOK_MAIL, "");
	ev.mechanism = SPAN_LIT("PLAIN");
	ev.identity = SPAN_LIT("somebody");
	cr_assert_eq(hook_ask(&core, seat, &listener, &ev, &word), HOOK_LATER);
	cr_assert_eq(packet(), 'D');
	cr_assert_eq(got[0], 'C');
	MACROS_OF('M', "{client_addr}\000192.0.2.1\0{mail_addr}\0\0");
	expect_continue('M');
	cr_assert_eq(answer(HOOK_MAIL, ""), HOOK_PASS);
	cr_assert_eq(ask(HOOK_RCPT, "b@y.example"), HOOK_LATER);
	cr_assert_eq(packet(), 'R');
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_RCPT, "b@y.example"), HOOK_PASS);
	asked(HOOK_DATA, NULL, 'T');
	cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_LATER);
	expect_continue('N');
	MACROS_OF('E', "{rcpt_addr}\0b@y.example\0{auth_type}\0PLAIN\0");
	expect('E');
	FAR_PUT('a', "");
	cr_assert_eq(answer(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	end();
}

/* rspamd: no answer to anything but the end of the body. Nobody waits. */
Test(milter, no_replies)
{
	uint32_t none = 0;

	prepare();
	begin();
	none = MILTER_P_NR_CONN | MILTER_P_NR_HELO | MILTER_P_NR_MAIL | MILTER_P_NR_RCPT |
	       MILTER_P_NR_DATA | MILTER_P_NR_HDR | MILTER_P_NR_EOH | MILTER_P_NR_BODY;
	opened_with(none);
	expect('C');
	cr_assert_eq(ask(HOOK_EHLO, NULL), HOOK_PASS);
	cr_assert_eq(ask(HOOK_MAIL, "a@x.example"), HOOK_PASS);
	cr_assert_eq(ask(HOOK_RCPT, "b@y.example"), HOOK_PASS);
	cr_assert_eq(ask(HOOK_DATA, NULL), HOOK_PASS);
	show(span_str(message_text));
	cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_LATER);
	for (const char *c = "HMRTLLNBE"; *c; c++)
		expect(*c);
	FAR_PUT('y', "554 5.7.1 spam\0");
	says(answer(HOOK_END_OF_DATA, NULL), 554, "5.7.1", "spam");
	end();
}

Test(milter, steps_that_are_declined)
{
	prepare();
	begin();
	opened_with(MILTER_P_NOCONNECT | MILTER_P_NOHELO | MILTER_P_NOMAIL | MILTER_P_NORCPT |
		    MILTER_P_NODATA | MILTER_P_NOHDRS | MILTER_P_NOEOH | MILTER_P_NOBODY);
	cr_assert_eq(ask(HOOK_EHLO, NULL), HOOK_PASS);
	cr_assert_eq(ask(HOOK_MAIL, "a@x.example"), HOOK_PASS);
	cr_assert_eq(ask(HOOK_RCPT, "b@y.example"), HOOK_PASS);
	cr_assert_eq(ask(HOOK_DATA, NULL), HOOK_PASS);
	show(span_str(message_text));
	cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_LATER);
	expect('E');
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	end();
}

/* ---- the message ---- */

/* The filter's part of a message that it says `c` to; what it got of the body is in *body. */
static void take_message(struct pile *body, unsigned *fields)
{
	char c;

	for (*fields = 0; (c = packet()) != 'E';) {
		if (c == 'D')
			continue;
		if (c == 'L')
			++*fields;
		if (c == 'B')
			pile_add(body, got, got_n);
		FAR_PUT('c', "");
	}
}

Test(milter, any_pieces)
{
	enum { BODY = 200000 };
	static uint8_t octets[BODY + 100];
	uint64_t seed = 42;
	struct pile body = {0};
	size_t head;
	unsigned fields;

	prepare();
	hook.mode = HOOK_HOLD_END;
	begin();
	opened();
	head = (size_t)sprintf((char *)octets, "A: b\r\n\tc\r\nD: e\r\n\r\n");
	rnd_fill(&seed, octets + head, BODY);
	for (unsigned round = 0; round < 6; round++) {
		size_t all = head + (round ? BODY : 100);

		tid++;
		enveloped();
		for (size_t at = 0, n; at < all; at += n) {
			n = MIN_OF(all - at, 1 + rnd(&seed) % (round ? 40000 : 7));
			show(span_of(octets + at, n));
		}
		cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_LATER);
		body.n = 0;
		take_message(&body, &fields);
		FAR_PUT('c', "");
		cr_assert_eq(answer(HOOK_END_OF_DATA, NULL), HOOK_PASS);
		cr_expect_eq(fields, 2u);
		cr_expect_eq(body.n, all - head);
		cr_expect_eq(memcmp(body.p, octets + head, body.n), 0);
	}
	pile_free(&body);
	end();
}

Test(milter, what_is_no_header)
{
	static const struct {
		const char *message, *fields, *body;
	} rows[] = {
		{"", "", ""},
		{"A: b", "A", ""},
		{"A: b\r\n", "A", ""},
		{"A: b\r\nC : d\r\n\r\n", "AC", ""},
		{"\r\nno header", "", "no header"},
		{"A: b\r\nno field\r\nat all", "A", "no field\r\nat all"},
		{"A: b\r\nno field", "A", "no field"},
	};

	prepare();
	hook.mode = HOOK_HOLD_END;
	begin();
	opened();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char fields[8] = "", body[64] = "", c;

		tid++;
		enveloped();
		for (const char *p = rows[i].message; *p; p++)
			show(span_of(p, 1));
		cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_LATER);
		while ((c = packet()) != 'E') {
			if (c == 'D')
				continue;
			if (c == 'L')
				fields[strlen(fields)] = got[0];
			if (c == 'B')
				strcat(body, got);
			FAR_PUT('c', "");
		}
		FAR_PUT('c', "");
		cr_assert_eq(answer(HOOK_END_OF_DATA, NULL), HOOK_PASS);
		cr_expect_str_eq(fields, rows[i].fields, "row %zu: %s", i, fields);
		cr_expect_str_eq(body, rows[i].body, "row %zu: %s", i, body);
	}
	end();
}

/* A filter that does not read holds the session up, and no memory. */
Test(milter, full_and_not)
{
	static uint8_t octets[64 << 10];
	struct pile body = {0};
	size_t sent = 0;
	unsigned fields;

	prepare();
	hook.mode = HOOK_HOLD_END;
	begin();
	opened();
	enveloped();
	show(SPAN_LIT("A: b\r\n\r\n"));
	memset(octets, 'x', sizeof(octets));
	while (!hook_full(seat)) {
		show(span_of(octets, sizeof(octets)));
		sent += sizeof(octets);
		turn();
		cr_assert(sent < 1u << 20);
	}
	cr_expect_geq(sent, MILTER_FULL_BYTES);
	woken[0] = 0;
	expect_continue('L');
	expect_continue('N');
	while (hook_full(seat)) {
		expect('B');
		pile_add(&body, got, got_n);
		FAR_PUT('c', "");
		turns(20);
	}
	cr_expect_gt(woken[0], 0u);
	cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_LATER);
	take_message(&body, &fields);
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	cr_expect_eq(body.n, sent);
	pile_free(&body);
	/* A message that is given up when the filter has its fill leaves no trace. */
	tid++;
	enveloped();
	show(SPAN_LIT("A: b\r\n\r\n"));
	while (!hook_full(seat))
		show(span_of(octets, sizeof(octets)));
	tell(HOOK_RESET);
	turns(2);
	cr_expect(!hook_full(seat));
	tid++;
	cr_assert_eq(ask(HOOK_MAIL, "a@x.example"), HOOK_LATER);
	far_accept();
	negotiated(6, 0, MILTER_P_NOCONNECT | MILTER_P_NOHELO);
	expect_continue('M');
	cr_assert_eq(answer(HOOK_MAIL, "a@x.example"), HOOK_PASS);
	end();
}

Test(milter, too_much_header)
{
	static uint8_t octets[MILTER_HEADER_BYTES_MAX];

	prepare();
	hook.mode = HOOK_HOLD_END;
	begin();
	memset(octets, 'x', sizeof(octets));
	memcpy(octets, "A:", 2);
	opened();
	enveloped();
	show(span_of(octets, 70000));
	show(SPAN_LIT("\r\n\r\n"));
	says(ask(HOOK_END_OF_DATA, NULL), 451, "4.3.0",
		"message inspection is not available, try again later");
	said_in_log("body: header is too long for the protocol");
	tid++;
	cr_assert_eq(ask(HOOK_MAIL, "a@x.example"), HOOK_LATER);
	far_accept();
	negotiated(6, 0, MILTER_P_NOCONNECT | MILTER_P_NOHELO);
	expect_continue('M');
	cr_assert_eq(answer(HOOK_MAIL, "a@x.example"), HOOK_PASS);
	asked(HOOK_RCPT, "b@y.example", 'R');
	asked(HOOK_DATA, NULL, 'T');
	show(span_of(octets, sizeof(octets)));
	show(SPAN_LIT("x"));
	says(ask(HOOK_END_OF_DATA, NULL), 451, "4.3.0",
		"message inspection is not available, try again later");
	end();
}

Test(milter, skip)
{
	static uint8_t octets[200000];

	prepare();
	hook.mode = HOOK_HOLD_END;
	begin();
	opened();
	enveloped();
	memset(octets, 'x', sizeof(octets));
	show(SPAN_LIT("A: b\r\n\r\n"));
	show(span_of(octets, sizeof(octets)));
	expect_continue('L');
	expect_continue('N');
	expect('B');
	FAR_PUT('s', "");
	UNTIL(!((struct milter_session *)seat->own[0])->conn->waits);
	show(span_of(octets, sizeof(octets)));
	cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_LATER);
	expect('E');
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	end();
}

/* ---- verdicts ---- */

static const struct verdict_row {
	const char *say;
	size_t n;
	enum hook_said said;
	uint32_t code;
	const char *enhanced, *text;
} verdicts[] = {
#define ROW(octets, said, code, enhanced, text)                           \
	{                                                                 \
		"" octets, sizeof(octets) - 1, said, code, enhanced, text \
	}
	ROW("r", HOOK_NO, 550, "5.7.1", "refused by policy"),
	ROW("t", HOOK_NO, 450, "4.7.1", "try again later"),
	ROW("4", HOOK_NO, 421, "4.7.1", "closing connection"),
	ROW("f", HOOK_NO, 451, "4.3.0", "message inspection is not available, try again later"),
	ROW("y554 5.7.9 no\0", HOOK_NO, 554, "5.7.9", "no"),
	ROW("y451 100%% no\0", HOOK_NO, 451, "4.7.1", "100% no"),
	ROW("y550-5.1.1 one\r\n550 5.1.1 two\0", HOOK_NO, 550, "5.1.1", "one two"),
	ROW("y550 4.7.1 classes\0", HOOK_NO, 550, "5.7.1", "4.7.1 classes"),
	ROW("y550\0", HOOK_NO, 550, "5.7.1", "refused by policy"),
	ROW("y421 4.3.2 away\0", HOOK_NO, 421, "4.3.2", "away"),
	/* What is no answer is a failure. */
	ROW("y250 ok\0", HOOK_NO, 451, "4.3.0",
		"message inspection is not available, try again later"),
	ROW("z", HOOK_NO, 451, "4.3.0", "message inspection is not available, try again later"),
	ROW("cc", HOOK_NO, 451, "4.3.0", "message inspection is not available, try again later"),
#undef ROW
};

/* Goes up to the question of this point, which waits for the filter. */
static void up_to(enum hook_point point)
{
	static const struct {
		enum hook_point point;
		const char *about;
		char cmd;
	} steps[] = {
		{HOOK_EHLO, NULL, 'H'},
		{HOOK_MAIL, "a@x.example", 'M'},
		{HOOK_RCPT, "b@y.example", 'R'},
		{HOOK_DATA, NULL, 'T'},
	};

	cr_assert_eq(ask(HOOK_CONNECT, NULL), HOOK_LATER);
	far_accept();
	negotiated(6, 0x1ff, 0);
	expect('C');
	if (point == HOOK_CONNECT)
		return;
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_CONNECT, NULL), HOOK_PASS);
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		cr_assert_eq(ask(steps[i].point, steps[i].about), HOOK_LATER);
		expect(steps[i].cmd);
		if (steps[i].point == point)
			return;
		FAR_PUT('c', "");
		cr_assert_eq(answer(steps[i].point, steps[i].about), HOOK_PASS);
	}
	cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_LATER);
	expect_continue('N');
	expect('E');
}

static void each_verdict(enum hook_point point)
{
	static const char *const about[] = {[HOOK_MAIL] = "a@x.example",
		[HOOK_RCPT] = "b@y.example",
		[HOOK_END_OF_DATA] = NULL};

	prepare();
	begin();
	for (size_t i = 0; i < ARRAY_LEN(verdicts); i++) {
		const struct verdict_row *row = &verdicts[i];

		far_count = 0;
		up_to(point);
		far_put(row->say[0], row->say + 1, row->n - 1);
		says(answer(point, about[point]), row->code, row->enhanced, row->text);
		cr_expect_eq(word.drop, row->code == 421, "%s", row->say);
		tell(HOOK_CLOSE);
		hook_leave(&core, seat);
		memset(seat, 0, sizeof(*seat));
		UNTIL(far_gone());
		far_close();
		pile_free(&far->in);
	}
	far_count = 0;
	end();
}

Test(milter, verdicts_at_connect)
{
	each_verdict(HOOK_CONNECT);
}
Test(milter, verdicts_at_ehlo)
{
	each_verdict(HOOK_EHLO);
}
Test(milter, verdicts_at_mail)
{
	each_verdict(HOOK_MAIL);
}
Test(milter, verdicts_at_rcpt)
{
	each_verdict(HOOK_RCPT);
}
Test(milter, verdicts_at_data)
{
	each_verdict(HOOK_DATA);
}
Test(milter, verdicts_at_the_end)
{
	each_verdict(HOOK_END_OF_DATA);
}

Test(milter, accepting_the_client)
{
	prepare();
	begin();
	up_to(HOOK_CONNECT);
	FAR_PUT('a', "");
	cr_assert_eq(answer(HOOK_CONNECT, NULL), HOOK_PASS);
	expect('Q');
	UNTIL(far_gone());
	cr_assert_eq(ask(HOOK_EHLO, NULL), HOOK_PASS);
	cr_assert_eq(ask(HOOK_MAIL, "a@x.example"), HOOK_PASS);
	cr_assert_eq(ask(HOOK_RCPT, "b@y.example"), HOOK_PASS);
	show(span_str(message_text));
	cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	cr_expect_eq(stats.milter_connections, 1u);
	end();
}

Test(milter, accepting_a_message)
{
	prepare();
	begin();
	up_to(HOOK_RCPT);
	FAR_PUT('a', "");
	cr_assert_eq(answer(HOOK_RCPT, "b@y.example"), HOOK_PASS);
	cr_assert_eq(ask(HOOK_RCPT, "c@y.example"), HOOK_PASS);
	cr_assert_eq(ask(HOOK_DATA, NULL), HOOK_PASS);
	show(span_str(message_text));
	cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	tell(HOOK_TRANSACTION);
	expect('A');
	tid++;
	asked(HOOK_MAIL, "a@x.example", 'M');
	end();
}

/* In mid-body nobody waits for a verdict: it is said at the end. */
Test(milter, verdicts_in_the_body)
{
	prepare();
	hook.mode = HOOK_HOLD_END;
	begin();
	opened();
	for (size_t i = 0; i < 3; i++) {
		static const char steps[] = "LNB";
		static uint8_t octets[70000];

		tid++;
		enveloped();
		show(SPAN_LIT("A: b\r\n\r\n"));
		for (size_t before = 0; before < i; before++)
			expect_continue(steps[before]);
		show(span_of(octets, sizeof(octets)));
		expect(steps[i]);
		FAR_PUT('y', "554 5.7.1 seen enough\0");
		UNTIL(((struct milter_session *)seat->own[0])->message == MESSAGE_JUDGED);
		show(SPAN_LIT("more"));
		says(ask(HOOK_END_OF_DATA, NULL), 554, "5.7.1", "seen enough");
		tell(HOOK_TRANSACTION);
		expect('A');
	}
	end();
}

Test(milter, discarding)
{
	prepare();
	begin();
	up_to(HOOK_RCPT);
	FAR_PUT('d', "");
	cr_assert_eq(answer(HOOK_RCPT, "b@y.example"), HOOK_DISCARD);
	/* However the session takes that: it is the message that was meant. */
	cr_assert_eq(ask(HOOK_DATA, NULL), HOOK_DISCARD);
	tell(HOOK_RESET);
	expect('A');
	tid++;
	asked(HOOK_MAIL, "a@x.example", 'M');
	end();
}

/* ---- changes ---- */

static const char *edits_text(struct hook_edits *edits)
{
	static char text[2000];
	struct hook_edit e;
	size_t n = 0;

	for (size_t at = 0; hook_edits_next(edits, &at, &e);)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s %u [%.*s][%.*s]\n",
			hook_edit_word(e.kind), e.index, (int)e.name.n, (const char *)e.name.p,
			(int)e.value.n, (const char *)e.value.p);
	text[n] = '\0';
	hook_edits_free(edits);
	return text;
}

static void all_changes(void)
{
	FAR_PUT('h', "X-Added\0 one\n two\0");
	FAR_PUT('i', "\0\0\0\0X-First\0 v=1\0");
	FAR_PUT('m', "\0\0\0\2Subject\0 other\0");
	FAR_PUT('m', "\0\0\0\1X-Empty\0\0");
	FAR_PUT('e', "<c@x.example>\0SIZE=1\0");
	FAR_PUT('+', "<d@y.example>\0");
	FAR_PUT('2', "<e@y.example>\0NOTIFY=NEVER\0");
	FAR_PUT('-', "<b@y.example>\0");
	FAR_PUT('b', "new ");
	FAR_PUT('b', "body\r\n");
}

Test(milter, changes)
{
	prepare();
	begin();
	opened();
	at_end();
	all_changes();
	FAR_PUT('p', "");
	FAR_PUT('a', "");
	cr_assert_eq(answer(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	cr_expect_str_eq(edits_text(hook_take_edits(seat)),
		"add-header 0 [X-Added][ one\r\n two]\n"
		"insert-header 0 [X-First][ v=1]\n"
		"change-header 2 [Subject][ other]\n"
		"delete-header 1 [X-Empty][]\n"
		"change-sender 0 [SIZE=1][c@x.example]\n"
		"add-recipient 0 [][d@y.example]\n"
		"add-recipient 0 [NOTIFY=NEVER][e@y.example]\n"
		"delete-recipient 0 [][b@y.example]\n"
		"replace-body 0 [][new body\r\n]\n");
	tell(HOOK_TRANSACTION);
	/* A refusal takes its changes with it. */
	tid++;
	at_end();
	all_changes();
	FAR_PUT('r', "");
	says(answer(HOOK_END_OF_DATA, NULL), 550, "5.7.1", "refused by policy");
	cr_expect_null(seat->edits);
	tell(HOOK_TRANSACTION);
	tid++;
	at_end();
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	cr_expect_null(hook_take_edits(seat));
	end();
}

Test(milter, the_blank_is_ours)
{
	prepare();
	begin();
	opened_with(MILTER_P_NOCONNECT | MILTER_P_NOHELO);
	asked(HOOK_MAIL, "a@x.example", 'M');
	asked(HOOK_RCPT, "b@y.example", 'R');
	asked(HOOK_DATA, NULL, 'T');
	cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_LATER);
	expect_continue('N');
	expect('E');
	FAR_PUT('h', "X-Added\0one\0");
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	cr_expect_str_eq(edits_text(hook_take_edits(seat)), "add-header 0 [X-Added][ one]\n");
	end();
}

Test(milter, changes_that_are_none)
{
	static const struct {
		const char *say;
		size_t n;
		const char *why;
	} rows[] = {
#define ROW(octets, why) {"" octets, sizeof(octets) - 1, why}
		ROW("h", "string without an end"),
		ROW("hBad Name\0value\0", "not a name of a header field"),
		ROW("hName\0line\nnext\0", "value would end its header field"),
		ROW("i\0\0", "packet ends within a number"),
		ROW("+no@body@at.all\0", "not an address"),
		ROW("s", "no such reply to this step"),
		ROW("O\0\0\0\6\0\0\0\0\0\0\0\0", "no such reply to this step"),
#undef ROW
	};
	char want[128];

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		far_count = 0;
		memset(seats, 0, sizeof(seats));
		prepare();
		begin();
		opened();
		at_end();
		FAR_PUT('h', "X-Added\0 one\0");
		far_put(rows[i].say[0], rows[i].say + 1, rows[i].n - 1);
		says(answer(HOOK_END_OF_DATA, NULL), 451, "4.3.0",
			"message inspection is not available, try again later");
		snprintf(want, sizeof(want),
			"the filter breaks the protocol at end-of-body: %s: %s",
			milter_reply_name((uint8_t)rows[i].say[0]), rows[i].why);
		said_in_log(want);
		cr_expect_null(seat->edits);
		end();
	}
}

/* rspamd asks for everything, and then does it. */
Test(milter, changes_that_were_not_offered)
{
	prepare();
	hook.mode = HOOK_HOLD_END;
	begin();
	cr_assert_eq(ask(HOOK_CONNECT, NULL), HOOK_LATER);
	far_accept();
	negotiated(6, 0x1ff, MILTER_P_SKIP | MILTER_P_HDR_LEADSPC);
	expect_continue('C');
	cr_assert_eq(answer(HOOK_CONNECT, NULL), HOOK_PASS);
	said_in_log("the filter asks for add-headers, which mode hold-end does not have");
	at_end();
	all_changes();
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	cr_expect_null(hook_take_edits(seat));
	cr_expect_eq(stats.milter_left_out, 10u);
	end();
}

Test(milter, too_large_a_body)
{
	static uint8_t octets[60000];
	unsigned n = 0;

	prepare();
	begin();
	opened();
	at_end();
	while (!hook_answered(seat) && n++ < 40) {
		far_put('b', octets, sizeof(octets));
		turns(5);
	}
	says(answer(HOOK_END_OF_DATA, NULL), 451, "4.3.0",
		"message inspection is not available, try again later");
	said_in_log("replace-body: a change that cannot be made");
	end();
}

Test(milter, quarantine)
{
	static const struct {
		enum conf_quarantine quarantine;
		enum hook_said said;
		uint32_t code;
		const char *log;
	} rows[] = {
		{QUARANTINE_REJECT, HOOK_NO, 554, "0071d, rejected: virus"},
		{QUARANTINE_TEMPFAIL, HOOK_NO, 451, "0071d, refused for now: virus"},
		{QUARANTINE_DISCARD, HOOK_DISCARD, 250, "0071d, discarded: virus"},
		{QUARANTINE_ACCEPT, HOOK_PASS, 0, "0071d, accepted: virus"},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		far_count = 0;
		memset(seats, 0, sizeof(seats));
		prepare();
		hook.mode = HOOK_HOLD_END;
		hook.quarantine = rows[i].quarantine;
		begin();
		opened();
		at_end();
		FAR_PUT('q', "virus\0");
		FAR_PUT('a', "");
		cr_assert_eq(answer(HOOK_END_OF_DATA, NULL), rows[i].said);
		if (rows[i].said != HOOK_PASS)
			cr_expect_eq(word.reply->code, rows[i].code);
		said_in_log(rows[i].log);
		end();
	}
	cr_expect_eq(stats.milter_quarantined, 4u);
}

/* ---- time ---- */

Test(milter, progress)
{
	uint64_t first, now;

	prepare();
	begin();
	opened();
	at_end();
	first = seat->call->timer.at_ms;
	now = ring_now_us(bed.r);
	UNTIL(ring_now_us(bed.r) > now + 50000);
	cr_expect_eq(seat->call->timer.at_ms, first);
	FAR_PUT('p', "");
	UNTIL(seat->call->timer.at_ms > first);
	FAR_PUT('c', "");
	cr_assert_eq(answer(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	end();
}

/* No question is open: the connection's own clock. */
Test(milter, silence_in_the_body)
{
	prepare();
	hook.mode = HOOK_HOLD_END;
	hook.deadline_ms = 400;
	begin();
	opened();
	enveloped();
	show(SPAN_LIT("A: b\r\n\r\nbody"));
	expect('L');
	UNTIL(stats.hook_deadlines == 1);
	says(ask(HOOK_END_OF_DATA, NULL), 451, "4.3.0",
		"message inspection is not available, try again later");
	said_in_log("body: no answer before its deadline to header");
	UNTIL(far_gone());
	end();
}

Test(milter, silence_at_a_question)
{
	prepare();
	hook.deadline_ms = 200;
	hook.on_failure = HOOK_FAILS_ACCEPT;
	begin();
	up_to(HOOK_CONNECT);
	cr_assert_eq(answer(HOOK_CONNECT, NULL), HOOK_PASS);
	cr_expect_eq(stats.hook_deadlines, 1u);
	UNTIL(far_gone());
	cr_assert_eq(ask(HOOK_EHLO, NULL), HOOK_PASS);
	/* The next message tries again. */
	hook.deadline_ms = 20000;
	cr_assert_eq(ask(HOOK_MAIL, "a@x.example"), HOOK_LATER);
	far_accept();
	negotiated(6, 0, 0);
	expect_continue('C');
	expect_continue('H');
	expect_continue('M');
	cr_assert_eq(answer(HOOK_MAIL, "a@x.example"), HOOK_PASS);
	end();
}

/* ---- connections ---- */

Test(milter, negotiations_that_fail)
{
	static const struct {
		enum conf_hook_mode mode;
		const char *say;
		size_t n;
		const char *why;
	} rows[] = {
#define ROW(mode, octets, why) {mode, "" octets, sizeof(octets) - 1, why}
		ROW(HOOK_STREAM, "",
			"hung up in the negotiation (EOF): it may need mode hold-end or hold-all"),
		ROW(HOOK_HOLD_END, "",
			"hung up in the negotiation (EOF): it may need mode hold-all"),
		ROW(HOOK_HOLD_ALL, "", "hung up in the negotiation (EOF)"),
		ROW(HOOK_HOLD_ALL, "\0\0\0\15O\0\0\0\6\0\0\0\0\x10\0\0\0",
			"(protocol bits 0x10000000), which was not offered"),
		ROW(HOOK_HOLD_ALL, "\0\0\0\15O\0\0\0\1\0\0\0\0\0\0\0\0",
			"speaks version 1 of the protocol; 2 to 6 are known here"),
		ROW(HOOK_HOLD_ALL, "\0\0\0\15O\0\0\0\7\0\0\0\0\0\0\0\0",
			"speaks version 7 of the protocol"),
		ROW(HOOK_HOLD_ALL, "\0\0\0\5O\0\0\0\6", "packet ends within a number"),
		ROW(HOOK_HOLD_ALL, "\0\0\0\1c", "no such reply"),
		ROW(HOOK_HOLD_ALL, "\x7f\0\0\1c", "packet too long"),
		ROW(HOOK_HOLD_ALL, "HTTP/1.1 400", "packet of an unknown kind"),
		ROW(HOOK_HOLD_ALL, "\0\0\0\0", "packet without a command"),
#undef ROW
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		far_count = 0;
		memset(seats, 0, sizeof(seats));
		prepare();
		hook.mode = rows[i].mode;
		begin();
		cr_assert_eq(ask(HOOK_CONNECT, NULL), HOOK_LATER);
		far_accept();
		expect('O');
		if (rows[i].n > 0)
			cr_assert_eq(send(far->fd, rows[i].say, rows[i].n, 0), (ssize_t)rows[i].n);
		else
			far_close();
		says(answer(HOOK_CONNECT, NULL), 451, "4.3.0",
			"message inspection is not available, try again later");
		said_in_log(rows[i].why);
		end();
	}
}

Test(milter, nobody_listens)
{
	prepare();
	hook.on_failure = HOOK_FAILS_REJECT;
	hook.endpoint.addr = loop_addr(1);
	begin();
	cr_assert_eq(ask(HOOK_CONNECT, NULL), HOOK_LATER);
	says(answer(HOOK_CONNECT, NULL), 554, "5.3.0", "message inspection is not available");
	said_in_log("connect: cannot connect to the filter: ECONNREFUSED");
	cr_expect_eq(stats.milter_failures, 1u);
	cr_expect_eq(stats.hook_failures, 1u);
	end();
}

/* A Unix socket whose queue is full refuses for now only. */
Test(milter, a_full_socket)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int plugs[4], n = 0;

	prepare();
	close(far_listener);
	far_listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(un.sun_path, sizeof(un.sun_path), "/tmp/ringpost-milter-%d", (int)getpid());
	cr_assert_eq(bind(far_listener, (struct sockaddr *)&un, sizeof(un)), 0);
	cr_assert_eq(listen(far_listener, 1), 0);
	hook.endpoint.addr = (struct ring_addr){.len = sizeof(un)};
	memcpy(&hook.endpoint.addr.ss, &un, sizeof(un));
	begin();
	do {
		plugs[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		cr_assert(n < 4);
	} while (connect(plugs[n++], (struct sockaddr *)&un, sizeof(un)) == 0);
	cr_assert_eq(ask(HOOK_CONNECT, NULL), HOOK_LATER);
	turns(60);
	cr_assert(!hook_answered(seat));
	for (int i = 0; i < n; i++) {
		int fd = accept4(far_listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0)
			close(fd);
		close(plugs[i]);
	}
	far_accept();
	negotiated(6, 0, 0);
	expect_continue('C');
	cr_assert_eq(answer(HOOK_CONNECT, NULL), HOOK_PASS);
	unlink(un.sun_path);
	end();
}

Test(milter, hanging_up_at_each_step)
{
	static const enum hook_point points[] = {
		HOOK_CONNECT, HOOK_EHLO, HOOK_MAIL, HOOK_RCPT, HOOK_DATA, HOOK_END_OF_DATA};
	static const char *const about[] = {[HOOK_MAIL] = "a@x.example",
		[HOOK_RCPT] = "b@y.example",
		[HOOK_END_OF_DATA] = NULL};

	for (size_t i = 0; i < ARRAY_LEN(points); i++) {
		far_count = 0;
		memset(seats, 0, sizeof(seats));
		prepare();
		hook.on_failure = i % 2 ? HOOK_FAILS_ACCEPT : HOOK_FAILS_TEMPFAIL;
		begin();
		up_to(points[i]);
		far_close();
		cr_assert_eq(answer(points[i], about[points[i]]), i % 2 ? HOOK_PASS : HOOK_NO);
		said_in_log("the filter hung up at ");
		/* So do the other questions of the message, at once. */
		if (points[i] == HOOK_MAIL || points[i] == HOOK_RCPT)
			cr_expect_neq(ask(HOOK_DATA, NULL), HOOK_LATER);
		tell(HOOK_TRANSACTION);
		tid++;
		cr_assert_eq(ask(HOOK_MAIL, "a@x.example"), HOOK_LATER);
		far_accept();
		negotiated(6, 0, 0);
		expect_continue('C');
		expect_continue('H');
		expect_continue('M');
		cr_assert_eq(answer(HOOK_MAIL, "a@x.example"), HOOK_PASS);
		end();
	}
}

/* Between messages a filter may come and go; what it says to the client the second time counts. */
Test(milter, a_new_connection_between_messages)
{
	static const char says_c[] = "cry", says_h[] = "c0y";

	for (size_t i = 0; i < 3; i++) {
		far_count = 0;
		memset(seats, 0, sizeof(seats));
		prepare();
		begin();
		opened();
		far_close();
		UNTIL(stats.milters_now == 0);
		cr_assert_eq(ask(HOOK_EHLO, NULL), HOOK_PASS);
		cr_assert_eq(ask(HOOK_MAIL, "a@x.example"), HOOK_LATER);
		far_accept();
		negotiated(6, 0, 0);
		expect('C');
		if (says_c[i] == 'y')
			FAR_PUT('a', "");
		else
			far_put(says_c[i], "", 0);
		if (says_c[i] == 'c') {
			expect('H');
			far_put(says_h[i], "", 0);
			expect_continue('M');
		}
		cr_expect_eq(
			answer(HOOK_MAIL, "a@x.example"), says_c[i] == 'r' ? HOOK_NO : HOOK_PASS);
		cr_expect_eq(stats.milter_failures, 0u);
		/* Refused: the next one is told all of it again. */
		if (says_c[i] == 'r') {
			expect('Q');
			cr_assert_eq(ask(HOOK_MAIL, "a@x.example"), HOOK_LATER);
			far_accept();
			negotiated(6, 0, 0);
			expect_continue('C');
			expect_continue('H');
			expect_continue('M');
			cr_expect_eq(answer(HOOK_MAIL, "a@x.example"), HOOK_PASS);
		}
		end();
	}
}

Test(milter, aborts)
{
	prepare();
	begin();
	opened();
	enveloped();
	tell(HOOK_RESET);
	expect('A');
	tell(HOOK_RESET); /* once */
	tid++;
	enveloped();
	/* News of the one before. */
	tid--;
	tell(HOOK_TRANSACTION);
	tid++;
	cr_assert_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_LATER);
	expect_continue('N');
	expect('E');
	end();
}

/* libmilter ignores a recipient behind DATA, without an answer. */
Test(milter, a_recipient_behind_data)
{
	prepare();
	begin();
	opened();
	enveloped();
	cr_expect_eq(ask(HOOK_DATA, NULL), HOOK_PASS); /* it was told once */
	says(ask(HOOK_RCPT, "c@y.example"), 451, "4.3.0",
		"message inspection is not available, try again later");
	said_in_log("rcpt: a recipient behind DATA");
	end();
}

Test(milter, what_nobody_asked_for)
{
	prepare();
	begin();
	opened();
	FAR_PUT('c', "");
	UNTIL(far_gone());
	cr_expect_eq(stats.milter_failures, 0u);
	cr_assert_eq(ask(HOOK_MAIL, "a@x.example"), HOOK_LATER);
	far_accept();
	end();
}

Test(milter, a_client_that_leaves)
{
	prepare();
	begin();
	for (enum hook_point p = HOOK_CONNECT; p <= HOOK_END_OF_DATA; p++) {
		if (p == HOOK_AUTH)
			continue;
		up_to(p);
		hook_forget(&core, seat);
		tell(HOOK_CLOSE);
		hook_leave(&core, seat);
		memset(seat, 0, sizeof(*seat));
		UNTIL(far_gone());
	}
	cr_expect_eq(stats.milter_failures, 0u);
	end();
}

Test(milter, a_queue_for_connections)
{
	prepare();
	hook.connections = 1;
	hook.queue = 1;
	begin();
	opened();
	seat = &seats[1];
	cr_assert_eq(ask(HOOK_CONNECT, NULL), HOOK_LATER);
	seat = &seats[2];
	says(ask(HOOK_CONNECT, NULL), 451, "4.3.0",
		"message inspection is not available, try again later");
	cr_expect_eq(stats.milter_full, 1u);
	turns(10);
	cr_expect_lt(accept4(far_listener, NULL, NULL, 0), 0);
	seat = &seats[0];
	tell(HOOK_CLOSE);
	expect('Q');
	seat = &seats[1];
	far_accept();
	negotiated(6, 0, 0);
	expect_continue('C');
	cr_assert_eq(answer(HOOK_CONNECT, NULL), HOOK_PASS);
	/* One that waits and leaves. */
	seat = &seats[3];
	cr_assert_eq(ask(HOOK_CONNECT, NULL), HOOK_LATER);
	hook_forget(&core, seat);
	hook_leave(&core, seat);
	memset(seat, 0, sizeof(*seat));
	cr_assert_eq(ask(HOOK_CONNECT, NULL), HOOK_LATER);
	end();
}

/* A filter that reads nothing of our farewell does not keep its place. */
Test(milter, wound_up_with_all_open)
{
	prepare();
	begin();
	for (unsigned i = 0; i < 3; i++) {
		seat = &seats[i];
		opened();
	}
	cr_expect_eq(stats.milters_now, 3u);
	end();
}

/* ---- whatever it does ---- */

static void random_say(uint64_t *x)
{
	static const char kinds[] = "ccccccccccadrtyfsp4+2-ehimbqOz";
	static const char payloads[] = "\0\0\0\1X-Y\0value\0"
				       "550 5.7.1 no\0<a@b.example>\0";
	size_t from = rnd(x) % sizeof(payloads);
	size_t n = rnd(x) % 3 ? 0 : rnd(x) % (sizeof(payloads) - from);
	uint8_t octets[64] = {0, 0, 0, (uint8_t)(n + 1)};

	octets[4] = (uint8_t)kinds[rnd(x) % (sizeof(kinds) - 1)];
	if (rnd(x) % 100 == 0)
		octets[3] = (uint8_t)rnd(x);
	memcpy(octets + 5, payloads + from, n);
	if (far->fd >= 0)
		(void)!send(far->fd, octets, 5 + n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void random_far(uint64_t *x)
{
	uint32_t numbers[3] = {htonl(6), htonl((uint32_t)rnd(x) & 0x1ff),
		htonl(rnd(x) % 2 ? 0x100400 : (uint32_t)rnd(x) & 0x1ff7ff)};
	int fd = accept4(far_listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd >= 0) {
		if (far) {
			if (far->fd >= 0)
				close(far->fd);
			pile_free(&far->in);
		}
		far = &fars[0];
		*far = (struct far){.fd = fd};
		if (rnd(x) % 20)
			far_put('O', numbers, 12);
	}
	if (!far || far->fd < 0)
		return;
	far->in.n = 0;
	if (rnd(x) % 50 == 0)
		far_close();
	else if (rnd(x) % 3 && peer_read(far->fd, &far->in, 1 << 16) > 0)
		random_say(x);
}

static void random_session(uint64_t *x)
{
	static uint8_t octets[30000];
	enum hook_point point = HOOK_CONNECT;
	bool in_body = false;
	unsigned steps = 60;

	memcpy(octets, "A: b\r\n\r\n", 8);
	while (steps-- > 0) {
		enum hook_said said = ask(point, "a@x.example");

		for (unsigned t = 0; said == HOOK_LATER && t < 400; t++) {
			random_far(x);
			turn();
			if (hook_answered(seat))
				said = ask(point, "a@x.example");
		}
		if (said == HOOK_LATER)
			hook_forget(&core, seat);
		if (said == HOOK_PASS)
			hook_edits_free(hook_take_edits(seat));
		else
			hook_forget(&core, seat);
		hook_forget_replies(&core, seat);
		if (point == HOOK_END_OF_DATA || rnd(x) % 20 == 0) {
			tell(rnd(x) % 2 ? HOOK_TRANSACTION : HOOK_RESET);
			tid++;
			in_body = false;
			point = HOOK_MAIL;
		} else if (point == HOOK_CONNECT) {
			point = HOOK_EHLO;
		} else if (point == HOOK_EHLO) {
			point = HOOK_MAIL;
		} else if (point == HOOK_MAIL || (point == HOOK_RCPT && rnd(x) % 2)) {
			point = HOOK_RCPT;
		} else if (point == HOOK_RCPT) {
			point = HOOK_DATA;
		} else {
			in_body = true;
			point = HOOK_END_OF_DATA;
		}
		for (unsigned i = 0; in_body && i < 12; i++) {
			show(span_of(octets, rnd(x) % sizeof(octets)));
			random_far(x);
			turn();
		}
	}
}

static void anything(uint64_t seed, enum conf_hook_mode mode)
{
	prepare();
	hook.mode = mode;
	begin();
	for (unsigned round = 0; round < 12; round++) {
		random_session(&seed);
		if (rnd(&seed) % 2)
			tell(HOOK_CLOSE);
		hook_forget(&core, seat);
		hook_leave(&core, seat);
		memset(seat, 0, sizeof(*seat));
		turns(3);
	}
	far_count = far ? 1 : 0;
	end();
}

Test(milter, anything_while_it_streams, .timeout = 120)
{
	anything(1, HOOK_HOLD_END);
}
Test(milter, anything_while_it_is_fed, .timeout = 120)
{
	anything(2, HOOK_HOLD_ALL);
}
