/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the tests of hooks share: a configuration of a few hooks, among them plugins that lie beside
 * the test in its build tree; a worker's share of them on a real ring; seats to ask for. One bed
 * per test process.
 */
#ifndef TESTS_UNIT_HOOKBED_H
#define TESTS_UNIT_HOOKBED_H

#include "engine/hook/plugin/plugin_int.h"

#include "tests/unit/bed.h"
#include "tests/unit/some_tls.h"

/* ---- a configuration ---- */

enum { HOOKS_MAX = 4, OPTIONS_MAX = 4, SESSIONS = 8, WORKERS = 2 };

static struct conf conf;
static struct conf_hook hooks[HOOKS_MAX];
static const struct conf_hook *in_order[HOOKS_MAX];
static struct conf_option options[HOOKS_MAX][OPTIONS_MAX];
static struct conf_listener listener = {.name = "in", .hooks = in_order};

static inline struct conf_hook *add_hook(const char *name, enum conf_hook_type type)
{
	uint32_t i = conf.hook_count++;

	cr_assert(i < HOOKS_MAX);
	hooks[i] = (struct conf_hook){.name = name,
		.type = type,
		.word = "hook:word",
		.where = "file:1:2",
		.deadline_ms = 20000,
		.options = options[i]};
	in_order[i] = &hooks[i];
	conf.hooks = hooks;
	conf.listeners = &listener;
	conf.listener_count = 1;
	listener.hook_count = conf.hook_count;
	return &hooks[i];
}

/* Beside this program, in the same build tree. */
static const char *built(const char *path)
{
	static char out[HOOKS_MAX][640];
	static unsigned next;
	char *to = out[next++ % HOOKS_MAX], *slash;
	ssize_t n = readlink("/proc/self/exe", to, 400);

	cr_assert(n > 0);
	to[n] = '\0';
	for (int up = 0; up < 3; up++) {
		slash = strrchr(to, '/');
		cr_assert(slash != NULL);
		*slash = '\0';
	}
	snprintf(to + strlen(to), 202, "/%s", path);
	return to;
}

static inline struct conf_hook *add_plugin(const char *name, const char *object)
{
	struct conf_hook *h = add_hook(name, HOOK_PLUGIN);
	char path[200];

	snprintf(path, sizeof(path), "tests/plugins/%s", object);
	h->file = object[0] == '/' ? object : built(path);
	return h;
}

static inline void option(struct conf_hook *h, const char *name, const char *value)
{
	cr_assert(h->option_count < OPTIONS_MAX);
	options[h - hooks][h->option_count++] = (struct conf_option){name, value};
}

/* Opens the set; what it said is in `said`. */
static char said[4096];

static inline struct hook_set *open_set(void)
{
	FILE *err = fmemopen(said, sizeof(said), "w");
	struct hook_set *set;

	memset(said, 0, sizeof(said));
	set = hook_set_open(&conf, WORKERS, err);
	fclose(err);
	return set;
}

/* ---- a worker ---- */

static struct bed bed;
static struct timers timers;
static struct stat_table stats;
static struct log_buf *log_lines;
static struct hook_core core;
static struct hook_seat seats[SESSIONS];
#define seat (seats[0])
static unsigned woken;

static inline void wake(struct hook_seat *s)
{
	cr_assert(s >= seats && s < seats + SESSIONS);
	woken++;
}

static inline void begin(void)
{
	static const struct conf_log to = {.format = LOG_LOGFMT, .level = LOG_INFO};
	struct ring_conf rc = bed_conf();
	struct hook_set *set = open_set();

	cr_assert_not_null(set, "%s", said);
	bed_open(&bed, &rc, 16, 16);
	timers_init(&timers, ring_now_us(bed.r) / 1000);
	log_lines = log_buf_new(1u << 16, &to);
	cr_assert(hook_core_init(&core, &(struct hook_worker_conf){set, 0, SESSIONS, wake}, &bed.ss,
		&timers, &stats, log_lines));
}

static inline void turn(void)
{
	bed_turn(&bed);
	timers_run(&timers, ring_now_us(bed.r) / 1000);
}

/* The log's lines so far, taken out. */
static const char *logged(void)
{
	static char text[1u << 16];
	struct iovec iov[2];
	size_t n;

	turn();
	n = log_buf_peek(log_lines, iov);
	cr_assert(n < sizeof(text));
	memcpy(text, iov[0].iov_base, iov[0].iov_len);
	memcpy(text + iov[0].iov_len, iov[1].iov_base, n - iov[0].iov_len);
	text[n] = '\0';
	log_buf_take(log_lines, n);
	return text;
}

static inline void end(void)
{
	hook_leave(&core, &seat);
	cr_expect_eq(stats.hooks_now, 0u);
	hook_core_fini(&core);
	hook_set_close(core.set);
	log_buf_free(log_lines);
	streams_fini(&bed.ss);
	ring_close(bed.r);
}

static inline struct ring_addr client_addr(void)
{
	struct ring_addr a = {.len = sizeof(struct sockaddr_in)};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(4321)};

	inet_pton(AF_INET, "192.0.2.1", &in.sin_addr);
	memcpy(&a.ss, &in, sizeof(in));
	return a;
}

static inline struct hook_event make_event(enum hook_point point, const char *about)
{
	static struct ring_addr client;
	static struct smtp_path path;

	client = client_addr();
	path = (struct smtp_path){.mailbox = span_str(about), .null = about && about[0] == '\0'};
	return (struct hook_event){.point = point,
		.sid = 0x51d,
		.tid = 0x71d,
		.client = &client,
		.helo = point == HOOK_EHLO ? span_str(about) : SPAN_LIT("client.example"),
		.mechanism = point == HOOK_AUTH ? span_str(about) : SPAN_NONE,
		.path = point == HOOK_MAIL || point == HOOK_RCPT ? &path : NULL,
		.bytes = 1000};
}

static const struct local_reply *no;
static bool drop;

static inline enum hook_said ask_for(struct hook_seat *who, const struct hook_event *ev)
{
	struct hook_word word;
	enum hook_said what = hook_ask(&core, who, &listener, ev, &word);

	no = word.reply;
	drop = word.drop;
	return what;
}

static inline enum hook_said ask(enum hook_point point, const char *about)
{
	struct hook_event ev = make_event(point, about);

	return ask_for(&seat, &ev);
}

static inline void tell(enum hook_point point)
{
	struct hook_event ev = make_event(point, NULL);

	hook_tell(&core, &seat, &listener, &ev);
}

#define EXPECT_NO(code_, enhanced_, text_, drop_)            \
	do {                                                 \
		cr_assert_not_null(no);                      \
		cr_expect_eq(no->code, (code_));             \
		cr_expect_str_eq(no->enhanced, (enhanced_)); \
		cr_expect_str_eq(no->text, (text_));         \
		cr_expect_eq(drop, (drop_));                 \
	} while (0)

static inline void wait_until_woken(void)
{
	uint64_t until = ring_now_us(bed.r) + 20000000;

	woken = 0;
	while (!woken && ring_now_us(bed.r) < until)
		turn();
	cr_assert_eq(woken, 1u);
}

#endif
