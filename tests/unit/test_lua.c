/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Lua scripts as hooks: what a script sees, says and changes; what it may not do, and what stops
 * it; calls that sleep; the example. With scripts of the test's own, on a real ring.
 */
#include "engine/hook/lua/lua_int.h"

#include "tests/unit/bed.h"
#include "tests/unit/some_tls.h"

#include <sys/stat.h>

enum { HOOKS_MAX = 3, OPTIONS_MAX = 4, SESSIONS = 100, WORKERS = 2 };

static struct conf conf;
static struct conf_hook hooks[HOOKS_MAX];
static const struct conf_hook *in_order[HOOKS_MAX];
static struct conf_option options[HOOKS_MAX][OPTIONS_MAX];
static struct conf_listener listener = {.name = "in", .hooks = in_order};
static char dir[] = "/tmp/ringpost-lua-XXXXXX", files[HOOKS_MAX][64];

static struct conf_hook *add_hook(const char *file)
{
	uint32_t i = conf.hook_count++;

	cr_assert(i < HOOKS_MAX);
	hooks[i] = (struct conf_hook){.name = "h",
		.type = HOOK_LUA,
		.word = "hook:h",
		.where = "file:1:2",
		.deadline_ms = 20000,
		.mode = HOOK_HOLD_END,
		.file = file,
		.budget = 100000,
		.memory_bytes = 1u << 20,
		.options = options[i]};
	in_order[i] = &hooks[i];
	conf.hooks = hooks;
	conf.listeners = &listener;
	conf.listener_count = 1;
	listener.hook_count = conf.hook_count;
	return &hooks[i];
}

static const char *put_script(const char *text, size_t n)
{
	char *file = files[conf.hook_count];
	FILE *f;

	if (!strchr(dir, 'X') || mkdtemp(dir))
		snprintf(file, sizeof(files[0]), "%s/s%u.lua", dir, conf.hook_count);
	f = fopen(file, "w");
	cr_assert_not_null(f);
	cr_assert_eq(fwrite(text, 1, n, f), n);
	fclose(f);
	chmod(file, 0644);
	return file;
}

static struct conf_hook *script(const char *text)
{
	return add_hook(put_script(text, strlen(text)));
}

static void option(const char *name, const char *value)
{
	uint32_t i = conf.hook_count - 1;

	cr_assert(hooks[i].option_count < OPTIONS_MAX);
	options[i][hooks[i].option_count++] = (struct conf_option){name, value};
}

static void remove_files(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	cr_assert_eq(system(command), 0);
}

TestSuite(lua, .fini = remove_files);

static char said[4096];

static struct hook_set *open_set(void)
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
static unsigned woken;

static void wake(struct hook_seat *s)
{
	cr_assert(s >= seats && s < seats + SESSIONS);
	woken++;
}

static void begin(void)
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

static void begin_with(const char *text)
{
	script(text);
	begin();
}

static void turn(void)
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

#define EXPECT_LOGGED(what)                                             \
	do {                                                            \
		const char *text_ = logged();                           \
		cr_expect_not_null(strstr(text_, (what)), "%s", text_); \
	} while (0)

/* Complaints are one a second. */
static void unquiet(void)
{
	core.quiet_until_us[0] = 0;
}

static struct lua_share *share(void)
{
	return core.shares[0];
}

static void end(void)
{
	for (unsigned i = 0; i < SESSIONS; i++)
		hook_leave(&core, &seats[i]);
	cr_expect_eq(stats.hooks_now, 0u);
	cr_expect_eq(timers.armed, 0u);
	while (!hook_core_idle(&core))
		turn();
	hook_core_fini(&core);
	hook_set_close(core.set);
	log_buf_free(log_lines);
	streams_fini(&bed.ss);
	ring_close(bed.r);
}

static struct hook_event make_event(enum hook_point point, const char *about)
{
	static struct ring_addr client;
	static struct smtp_path path;
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(4321)};

	client.len = sizeof(in);
	inet_pton(AF_INET, "192.0.2.1", &in.sin_addr);
	memcpy(&client.ss, &in, sizeof(in));
	path = (struct smtp_path){.mailbox = span_str(about), .null = about && about[0] == '\0'};
	return (struct hook_event){.point = point,
		.sid = 0x51d,
		.tid = 0x71d,
		.client = &client,
		.helo = point == HOOK_EHLO ? span_str(about) : SPAN_LIT("client.example"),
		.mechanism = point == HOOK_AUTH ? span_str(about) : SPAN_NONE,
		.sender = SPAN_LIT("from@x.example"),
		.path = point == HOOK_MAIL || point == HOOK_RCPT ? &path : NULL,
		.data = point == HOOK_BODY ? span_str(about) : SPAN_NONE,
		.bytes = 1000};
}

static struct hook_word word;

static enum hook_said ask_of(unsigned session, const struct hook_event *ev)
{
	word = (struct hook_word){0};
	return hook_ask(&core, &seats[session], &listener, ev, &word);
}

static enum hook_said ask(enum hook_point point, const char *about)
{
	struct hook_event ev = make_event(point, about);

	return ask_of(0, &ev);
}

static void tell(enum hook_point point, const char *about)
{
	struct hook_event ev = make_event(point, about);

	if (point == HOOK_BODY)
		hook_show(&core, &seats[0], &listener, &ev);
	else
		hook_tell(&core, &seats[0], &listener, &ev);
}

#define EXPECT_NO(code_, enhanced_, text_, drop_)                    \
	do {                                                         \
		cr_assert_not_null(word.reply);                      \
		cr_expect_eq(word.reply->code, (code_));             \
		cr_expect_str_eq(word.reply->enhanced, (enhanced_)); \
		cr_expect_str_eq(word.reply->text, (text_));         \
		cr_expect_eq(word.drop, (drop_));                    \
	} while (0)

/* The handler of rcpt runs this, and passes. */
static void expect_runs(const char *body)
{
	static char text[4096];

	snprintf(text, sizeof(text), "function rcpt(ev)\n%s\nend", body);
	begin_with(text);
	cr_expect_eq(ask(HOOK_RCPT, "to@y.example"), HOOK_PASS, "%s: %s", body, logged());
	cr_expect_eq(stats.lua_errors, 0u);
	end();
}

/* The handler of rcpt runs this, and fails with that complaint. */
static void expect_fails(const char *body, const char *complaint)
{
	static char text[4096];

	snprintf(text, sizeof(text), "function rcpt(ev)\n%s\nend\nfunction mail() end", body);
	begin_with(text);
	cr_expect_eq(ask(HOOK_RCPT, "to@y.example"), HOOK_NO, "%s", body);
	EXPECT_NO(451, "4.3.0", "message inspection is not available, try again later", false);
	cr_expect_eq(stats.lua_errors, 1u);
	cr_expect_eq(stats.hook_failures, 1u);
	EXPECT_LOGGED(complaint);
	/* The state goes on. */
	cr_expect_eq(ask(HOOK_MAIL, "from@x.example"), HOOK_PASS);
	cr_expect_eq(stats.lua_errors, 1u);
	end();
}

/* ---- scripts that are refused ---- */

static void expect_refused(const char *because)
{
	struct hook_set *set = open_set();

	cr_expect_null(set);
	cr_expect_not_null(strstr(said, because), "`%s` is not in `%s`", because, said);
	cr_expect_eq(strncmp(said, "file:1:2: hook `h`: ", 20), 0, "%s", said);
	conf.hook_count = 0;
}

Test(lua, scripts_that_are_refused)
{
	static const struct {
		const char *text, *because;
	} rows[] = {
		{"x = = 1\nfunction mail() end", "/s0.lua:1: unexpected symbol near '='"},
		{"function mail(ev)\n\nif end", "/s0.lua:3: unexpected symbol near 'end'"},
		{"\n\nlocal x = nil .. 'a'\nfunction mail() end",
			"/s0.lua:3: attempt to concatenate a nil value"},
		{"x = 1", "defines no function for any event"},
		{"mail = 1", "`mail` is an event: it has to be a function"},
		{"function mail() end function open(o) return 'no\\nlist' end",
			"/s0.lua: no?list\n"},
		{"function mail() end function open(o) error('bad') end", "/s0.lua:1: bad\n"},
		{"function mail() end function open(o) return false end",
			"open() has to return nothing, or why it refuses"},
		{"function mail() end function open(o) coroutine.yield() end",
			"attempt to yield from outside a coroutine"},
		{"function mail() end function open(o) ringpost.sleep(1) end",
			"sleep: only in a function of an event"},
		{"while true do end", "/s0.lua:1: beyond its budget of instructions"},
		{"pcall(function() while true do end end) function mail() end",
			"beyond its budget of instructions"},
		{"x = {} while true do x[#x + 1] = {} end", "/s0.lua: not enough memory"},
		{"error({})", "/s0.lua: an error that is no string"},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		script(rows[i].text);
		expect_refused(rows[i].because);
	}
	script("function body() end")->mode = HOOK_STREAM;
	expect_refused("`body` needs mode: hold-end or hold-all");
	script("function end_of_data() end")->mode = HOOK_STREAM;
	expect_refused("`end_of_data` needs mode: hold-end or hold-all");
	script("function mail() end")->memory_bytes = 2000;
	expect_refused("no memory for a Lua state (memory: 2000)");
	script("function mail() end")->memory_bytes = 10000;
	expect_refused("/s0.lua: not enough memory");
}

Test(lua, bytecode_is_refused)
{
	lua_State *L = luaL_newstate();
	luaL_Buffer b;
	size_t n;
	const char *code;

	luaL_openlibs(L);
	luaL_buffinit(L, &b);
	luaL_pushresult(&b);
	cr_assert_eq(luaL_dostring(L, "return string.dump(load('function mail() end'))"), LUA_OK);
	code = lua_tolstring(L, -1, &n);
	add_hook(put_script(code, n));
	expect_refused("attempt to load a binary chunk (mode is 't')");
	lua_close(L);
}

Test(lua, files_that_are_refused)
{
	char open_dir[64], real[80], link[64];
	int before = bed_fds();

	script("function mail() end");
	chmod(files[0], 0664);
	expect_refused("its group or others may write to it (mode 0664)");
	add_hook("/no/such.lua");
	expect_refused("/no/such.lua: No such file or directory");
	add_hook(dir);
	expect_refused("not a regular file");
	if (geteuid() == 0) {
		script("function mail() end");
		cr_assert_eq(chown(files[0], 12345, 0), 0);
		expect_refused("a script has to belong to root or to the account");
		cr_assert_eq(chown(files[0], 0, 0), 0);
	}
	/* By its own name, and by one that leads there. */
	script("function mail() end");
	snprintf(open_dir, sizeof(open_dir), "%s/open", dir);
	snprintf(real, sizeof(real), "%s/s.lua", open_dir);
	snprintf(link, sizeof(link), "%s/link.lua", dir);
	cr_assert_eq(mkdir(open_dir, 0700), 0);
	cr_assert_eq(chmod(open_dir, 0777), 0);
	cr_assert_eq(rename(files[0], real), 0);
	cr_assert_eq(symlink(real, link), 0);
	conf.hook_count = 0;
	add_hook(real);
	expect_refused("everybody may write to this directory");
	add_hook(link);
	expect_refused("everybody may write to this directory");
	cr_expect_eq(bed_fds(), before);
}

Test(lua, what_a_script_wants_and_is_told)
{
	struct hook_set *set;

	script("function connect() end function ehlo() end function auth() end\n"
	       "function rcpt() end function data() end function end_of_data() end\n"
	       "function starttls() end function reset() end function transaction() end\n"
	       "function close() end function body() end mail = nil\n"
	       "function open(o)\n"
	       "  assert(o == ringpost.options and o.list == 'a,b' and o.other == '')\n"
	       "  assert(ringpost.worker == 0 and ringpost.workers == 2 and ringpost.name == 'h')\n"
	       "end");
	option("list", "a,b");
	option("other", "");
	set = open_set();
	cr_assert_not_null(set, "%s", said);
	cr_expect_eq(set->hooks[0].wants, ((1u << HOOK_POINT_COUNT) - 1) & ~(1u << HOOK_MAIL));
	hook_set_close(set);
}

/* ---- verdicts ---- */

Test(lua, verdicts)
{
	begin_with("local no = ringpost.reject('constant')\n"
		   "local says = {\n"
		   "  a = function() end, b = function() return nil end,\n"
		   "  c = function() return ringpost.pass end,\n"
		   "  d = function() return ringpost.reject() end, e = function() return no end,\n"
		   "  f = function() return ringpost.reject{code = 554, enhanced = '5.1.1',\n"
		   "    text = 'not\\r\\n250 h\\xe4'} end,\n"
		   "  g = function() return ringpost.tempfail{code = 451, text = 'slow'} end,\n"
		   "  h = function() return ringpost.drop('go') end,\n"
		   "  i = function() return ringpost.discard() end,\n"
		   "  j = function() return ringpost.drop{enhanced = '4.3.2'} end,\n"
		   "}\n"
		   "function rcpt(ev) return says[ev.address]() end");
	for (const char *pass = "abc"; *pass; pass++)
		cr_expect_eq(ask(HOOK_RCPT, (char[]){*pass, '\0'}), HOOK_PASS);
	cr_expect_eq(ask(HOOK_RCPT, "d"), HOOK_NO);
	EXPECT_NO(550, "5.7.1", "refused by policy", false);
	cr_expect_str_eq(word.reply->word, "hook:h");
	for (unsigned i = 0; i < 2; i++) {
		cr_expect_eq(ask(HOOK_RCPT, "e"), HOOK_NO);
		EXPECT_NO(550, "5.7.1", "constant", false);
	}
	cr_expect_eq(ask(HOOK_RCPT, "f"), HOOK_NO);
	EXPECT_NO(554, "5.1.1", "not??250 h?", false);
	cr_expect_eq(ask(HOOK_RCPT, "g"), HOOK_NO);
	EXPECT_NO(451, "4.7.1", "slow", false);
	cr_expect_eq(ask(HOOK_RCPT, "h"), HOOK_NO);
	EXPECT_NO(421, "4.7.1", "go", true);
	cr_expect_eq(ask(HOOK_RCPT, "i"), HOOK_DISCARD);
	EXPECT_NO(250, "2.0.0", "message accepted", false);
	cr_expect_eq(ask(HOOK_RCPT, "j"), HOOK_NO);
	EXPECT_NO(421, "4.3.2", "closing connection", true);
	cr_expect_eq(stats.lua_errors, 0u);
	cr_expect_eq(stats.hook_failures, 0u);
	end();
}

Test(lua, what_is_no_verdict)
{
	static const struct {
		const char *body, *complaint;
	} rows[] = {
		{"return true", "what it returned is no verdict: a boolean"},
		{"return 'reject'", "what it returned is no verdict: a string"},
		{"return ringpost.reject", "what it returned is no verdict: a function"},
		{"return ev", "what it returned is no verdict: a userdata"},
		{"return ringpost.pass, 1", "it returned 2 values, not one verdict"},
		{"return table.unpack({}, 1, 500)", "it returned 500 values, not one verdict"},
		{"return ringpost.reject{code = 450}", "code has to be a number from 500 to 599"},
		{"return ringpost.tempfail{code = 421}", "from 400 to 499, and not 421"},
		{"return ringpost.reject{code = '550'  .. 'x'}", "code has to be a number"},
		{"return ringpost.drop{code = 421}", "there is no choice of a code"},
		{"return ringpost.reject{enhanced = '4.7.1'}",
			"`4.7.1` is no enhanced code for it"},
		{"return ringpost.reject{enhanced = 571}", "enhanced has to be a string"},
		{"return ringpost.discard{enhanced = '2.0.0'}", "there is no field `enhanced`"},
		{"return ringpost.reject{tex = ''}", "there is no field `tex`"},
		{"return ringpost.reject{'text'}", "there is no field `?`"},
		{"return ringpost.reject(5)", "its argument has to be a string"},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		memset(&stats, 0, sizeof(stats));
		expect_fails(rows[i].body, rows[i].complaint);
		conf.hook_count = 0;
	}
}

Test(lua, nothing_to_discard)
{
	begin_with("function ehlo() return ringpost.discard() end");
	cr_expect_eq(ask(HOOK_EHLO, "x.example"), HOOK_NO);
	cr_expect_eq(word.reply->code, 451);
	EXPECT_LOGGED("ehlo: there is no message that could be discarded");
	end();
}

/* ---- on-failure ---- */

Test(lua, on_failure)
{
	struct conf_hook *h = script("function rcpt() error('x') end");

	begin();
	h->on_failure = HOOK_FAILS_REJECT;
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_NO);
	cr_expect_eq(word.reply->code, 554);
	h->on_failure = HOOK_FAILS_ACCEPT;
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_PASS);
	cr_expect_eq(stats.lua_errors, 2u);
	cr_expect_eq(stats.hook_failures, 2u);
	end();
}

Test(lua, errors_are_told_once_a_second)
{
	const char *text;

	begin_with("function rcpt(ev) error('bad ' .. ev.address) end");
	for (unsigned i = 0; i < 3; i++)
		ask(HOOK_RCPT, "to@y.example");
	text = strstr(logged(), "ev=hook-warning");
	cr_assert_not_null(text);
	cr_expect_not_null(strstr(text, "rcpt: s0.lua:1: bad to@y.example"), "%s", text);
	cr_expect_null(strstr(text + 1, "ev=hook-warning"), "%s", text);
	unquiet();
	ask(HOOK_RCPT, "to@y.example");
	EXPECT_LOGGED("s0.lua:1: bad");
	cr_expect_eq(stats.lua_errors, 4u);
	end();
}

/* ---- what an event shows ---- */

Test(lua, what_an_event_shows)
{
	struct hook_event ev = make_event(HOOK_RCPT, "to@y.example");
	struct smtp_path path = {
		.mailbox = SPAN_LIT("\"to\"@y.example"), .params = SPAN_LIT(" NOTIFY=NEVER \t")};

	begin_with(
		"local function same(got, want)\n"
		"  if got ~= want then error(tostring(got) .. ' ~= ' .. tostring(want), 2) end\n"
		"end\n"
		"function rcpt(ev)\n"
		"  same(ev.kind, 'rcpt') same(ev.session, '000000000000051d')\n"
		"  same(ev.transaction, '000000000000071d') same(ev.listener, 'in')\n"
		"  same(ev.client, '192.0.2.1') same(ev.client_port, 4321)\n"
		"  same(ev.helo, 'client.example') same(ev.mechanism, 'PLAIN')\n"
		"  same(ev.identity, 'me') same(ev.address, '\"to\"@y.example')\n"
		"  same(ev.params, 'NOTIFY=NEVER') same(ev.sender, 'from@x.example')\n"
		"  same(ev.recipient, nil) same(ev.recipients, 3) same(ev.result, nil)\n"
		"  same(ev.code, nil) same(ev.data, nil) same(ev.worker, 0)\n"
		"end\n"
		"function mail(ev)\n"
		"  same(ev.address, '') same(ev.params, '') same(ev.transaction, nil)\n"
		"  same(ev.sender, nil) same(ev.identity, nil)\n"
		"end\n"
		"function connect(ev) same(ev.kind, 'connect') same(ev.address, nil)\n"
		"  same(ev.params, nil) same(ev.helo, nil) end\n"
		"function data(ev) same(ev.recipient, 'only@y.example') end\n"
		"function end_of_data(ev) same(ev.kind, 'end_of_data') same(ev.bytes, 1000) end\n"
		"function transaction(ev) same(ev.result, 'in-doubt') same(ev.code, 554) end\n"
		"function body(ev) same(ev.data, 'octets') same(ev.kind, 'body') end\n");
	ev.path = &path;
	ev.recipients = 3;
	ev.mechanism = SPAN_LIT("PLAIN");
	ev.identity = SPAN_LIT("me");
	cr_expect_eq(ask_of(0, &ev), HOOK_PASS);
	ev = make_event(HOOK_MAIL, "");
	ev.tid = 0;
	cr_expect_eq(ask_of(0, &ev), HOOK_PASS);
	ev = make_event(HOOK_CONNECT, NULL);
	ev.helo = SPAN_NONE;
	cr_expect_eq(ask_of(0, &ev), HOOK_PASS);
	ev = make_event(HOOK_DATA, NULL);
	ev.only_rcpt = SPAN_LIT("only@y.example");
	cr_expect_eq(ask_of(0, &ev), HOOK_PASS);
	tell(HOOK_BODY, "octets");
	cr_expect_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	ev = make_event(HOOK_TRANSACTION, NULL);
	ev.outcome = HOOK_IN_DOUBT;
	ev.code = 554;
	hook_tell(&core, &seats[0], &listener, &ev);
	cr_expect_eq(stats.lua_errors, 0u, "%s", logged());
	end();
}

static const char shows_tls[] =
	"local function told(ev)\n"
	"  return table.concat({tostring(ev.tls_version), tostring(ev.tls_cipher),\n"
	"    tostring(ev.tls_bits), tostring(ev.tls_sni), tostring(ev.tls_subject),\n"
	"    tostring(ev.tls_verified), tostring(ev.tls_sha256)}, ' ')\n"
	"end\n"
	"function mail(ev) return ringpost.reject(told(ev)) end\n"
	"function rcpt(ev) ringpost.sleep(0.01) return ringpost.reject(told(ev)) end\n";
#define TLS_TOLD(subject, verified)                                           \
	"TLSv1.3 TLS_AES_128_GCM_SHA256 128 mx.example " subject " " verified \
	" abcd0000000000000000000000000000000000000000000000000000000001ef"

Test(lua, what_an_event_shows_of_tls)
{
	struct hook_event ev = make_event(HOOK_MAIL, "a");
	struct hook_tls tls = some_tls();

	begin_with(shows_tls);
	ev.tls = &tls;
	cr_expect_eq(ask_of(0, &ev), HOOK_NO);
	EXPECT_NO(550, "5.7.1", TLS_TOLD("Some?One+1??", "true"), false);
	tls.verified = false;
	cr_expect_eq(ask_of(0, &ev), HOOK_NO);
	EXPECT_NO(550, "5.7.1", TLS_TOLD("Some?One+1??", "false"), false);
	tls.certified = false;
	tls.subject = tls.sha256 = tls.sni = SPAN_NONE;
	cr_expect_eq(ask_of(0, &ev), HOOK_NO);
	EXPECT_NO(550, "5.7.1", "TLSv1.3 TLS_AES_128_GCM_SHA256 128 nil nil false nil", false);
	ev.tls = NULL;
	cr_expect_eq(ask_of(0, &ev), HOOK_NO);
	EXPECT_NO(550, "5.7.1", "nil nil nil nil nil false nil", false);
	end();
}

Test(lua, misuse_of_an_event)
{
	static const struct {
		const char *body, *complaint;
	} rows[] = {
		{"return ev.adress", "an event has no field `adress`"},
		{"return ev[{}]", "an event has no field `table"},
		{"ev.address = 'x'", "the fields of an event cannot be set"},
		{"ev.set_address('x')", "an event was expected (a method is called with a colon)"},
		{"getmetatable(ev).__index = 1", "attempt to index a boolean value"},
		{"setmetatable(ev, {})", "bad argument #1 to 'setmetatable'"},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		memset(&stats, 0, sizeof(stats));
		expect_fails(rows[i].body, rows[i].complaint);
		conf.hook_count = 0;
	}
}

Test(lua, an_event_that_was_kept)
{
	begin_with("function rcpt(ev) if old then return old.address end old = ev end\n"
		   "function connect(ev) ev = old; coroutine.wrap(function() return ev end)() end\n"
		   "function reset() ringpost.log('info', tostring(pcall(function()\n"
		   "  return first.address end))) end function mail(ev) first = ev end");
	cr_expect_eq(ask(HOOK_MAIL, "a"), HOOK_PASS);
	/* The same object, used again: no field of the old event is shown. */
	tell(HOOK_RESET, NULL);
	EXPECT_LOGGED("text=true");
	end();
}

Test(lua, a_session_keeps_its_table)
{
	struct hook_event ev;
	size_t before;

	begin_with("function rcpt(ev)\n"
		   "  ev.user.count = (ev.user.count or 0) + 1\n"
		   "  return ringpost.reject(tostring(ev.user.count))\n"
		   "end");
	ev = make_event(HOOK_RCPT, "a");
	for (unsigned round = 0; round < 2; round++) {
		ask_of(0, &ev);
		EXPECT_NO(550, "5.7.1", "1", false);
		ask_of(1, &ev);
		EXPECT_NO(550, "5.7.1", "1", false);
		ask_of(0, &ev);
		EXPECT_NO(550, "5.7.1", "2", false);
		for (unsigned i = 0; i < 2; i++)
			hook_leave(&core, &seats[i]);
		hook_forget_replies(&core, &seats[0]);
	}
	/* What a session kept goes with it. */
	lua_gc(share()->main, LUA_GCCOLLECT, 0);
	before = share()->bytes;
	for (unsigned i = 0; i < 100; i++) {
		ask_of(0, &ev);
		hook_leave(&core, &seats[0]);
	}
	lua_gc(share()->main, LUA_GCCOLLECT, 0);
	cr_expect_leq(share()->bytes, before + 100);
	end();
}

Test(lua, no_room_for_a_table)
{
	struct hook_event ev = make_event(HOOK_RCPT, "a");

	begin_with("function rcpt(ev) ev.user.x = 1 end");
	while (slab_get(&core.owns))
		;
	cr_expect_eq(ask_of(0, &ev), HOOK_NO);
	EXPECT_LOGGED("no room for ev.user");
	core.owns.used = 0; /* as if all had come back */
	end();
}

/* ---- the sandbox ---- */

Test(lua, what_there_is_not)
{
	expect_runs(
		"for _, name in ipairs{'dofile', 'loadfile', 'require', 'package', 'io', 'os',\n"
		"  'debug', 'xpcall', 'warn', 'module', 'getfenv', 'setfenv', 'jit', 'bit32'} do\n"
		"  assert(_G[name] == nil, name)\n"
		"end\n"
		"assert(string.dump == nil and coroutine.close == nil)\n"
		"local seen = {}\n"
		"for name in pairs(_G) do seen[#seen + 1] = name end\n"
		"table.sort(seen)\n"
		"assert(table.concat(seen, ' ') == '_G _VERSION assert collectgarbage coroutine '\n"
		"  .. 'error getmetatable ipairs load math next pairs pcall print rawequal rawget "
		"'\n"
		"  .. 'rawlen rawset rcpt ringpost select setmetatable string table tonumber '\n"
		"  .. 'tostring type utf8', table.concat(seen, ' '))\n"
		"seen = {}\n"
		"for _, lib in ipairs{coroutine, string, table} do\n"
		"  for name in pairs(lib) do seen[#seen + 1] = name end\n"
		"end\n"
		"table.sort(seen)\n"
		"assert(table.concat(seen, ' ') == 'byte char concat create find format gmatch '\n"
		"  .. 'gsub insert len lower match move pack pack packsize remove rep resume '\n"
		"  .. 'reverse running sort status sub unpack unpack upper wrap yield',\n"
		"  table.concat(seen, ' '))\n"
		"assert(getmetatable('').__index == string)\n"
		"assert(getmetatable(ev) == false and getmetatable(ringpost.pass) == false)\n");
}

Test(lua, load_takes_text)
{
	expect_runs("assert(load('return 1 + 1')() == 2)\n"
		    "local env = {}\n"
		    "assert(load('x = 1', '=c', 't', env))() assert(env.x == 1 and x == nil)\n"
		    "local f, why = load('\\27Lua', 'c', 'b')\n"
		    "assert(f == nil and why:find('binary chunk'), why)\n"
		    "local parts, i = {'return ', '7'}, 0\n"
		    "assert(load(function() i = i + 1 return parts[i] end)() == 7)\n"
		    "assert(load('x = = 1') == nil)");
}

Test(lua, libraries_that_are_ours)
{
	expect_runs(
		"local function same(got, ...) local t = table.pack(...)\n"
		"  for i = 1, t.n do assert(got[i] == t[i], tostring(got[i])) end\n"
		"  assert(got.n == t.n, got.n) end\n"
		"local function of(...) return table.pack(...) end\n"
		"same(of(('hello'):find('l')), 3, 3) same(of(('hello'):find('l', 4)), 4, 4)\n"
		"same(of(('hello'):find('xyz')), nil) same(of(('a.b'):find('.', 1, true)), 2, 2)\n"
		"same(of(('hello'):find('l', -1)), nil) same(of(('hello'):find('', 10)), nil)\n"
		"same(of(('hello'):find('')), 1, 0) same(of(('hello'):find('', 6)), 6, 5)\n"
		"same(of(('hello'):find('(l)(l)')), 3, 4, 'l', 'l')\n"
		"same(of(('k=v'):match('(%w+)=(%w+)')), 'k', 'v')\n"
		"same(of(('abc'):match('()b()')), 2, 3) same(of(('abc'):match('.')), 'a')\n"
		"same(of(('  x '):match('^%s*(.-)%s*$')), 'x') same(of(('abc'):match('b', -1)), "
		"nil)\n"
		"local all = {} for w in ('one two'):gmatch('%a+') do all[#all + 1] = w end\n"
		"same({n = #all, table.unpack(all)}, 'one', 'two')\n"
		"all = {} for k, v in ('a=1, b=2'):gmatch('(%w+)=(%w+)') do all[k] = v end\n"
		"assert(all.a == '1' and all.b == '2')\n"
		"local n = 0 for at in ('abc'):gmatch('()') do n = n + at end assert(n == 10)\n"
		"n = 0 for w in ('abc'):gmatch('%a', 2) do n = n + 1 end assert(n == 2)\n"
		"n = 0 for w in ('abc'):gmatch('%a*') do n = n + 1 end assert(n == 1)\n"
		"same(of(('hello'):gsub('l', 'L')), 'heLLo', 2)\n"
		"same(of(('hello'):gsub('l', 'L', 1)), 'heLlo', 1)\n"
		"same(of(('hello'):gsub('', '-')), '-h-e-l-l-o-', 6)\n"
		"same(of(('a b'):gsub('(%w) (%w)', '%2 %1 %0%%')), 'b a a b%', 1)\n"
		"same(of(('abc'):gsub('%w', {a = 'x', b = false})), 'xbc', 3)\n"
		"same(of(('abc'):gsub('%w', function(c) if c == 'b' then return 7 end end)), "
		"'a7c', 3)\n"
		"same(of(('abc'):gsub('^a', 'x')), 'xbc', 1) same(of(('aaa'):gsub('^a', '')), "
		"'aa', 1)\n"
		"same(of(('abc'):gsub('()', '%1')), '1a2b3c4', 4)\n"
		"same(of(('x'):rep(3, ',')), 'x,x,x')\n"
		"for _, f in ipairs{function() return ('a'):gsub('a', '%2') end,\n"
		"  function() return ('a'):gsub('a', '%') end, function() return ('a'):gsub('a') "
		"end,\n"
		"  function() return ('a'):gsub('a', function() return {} end) end,\n"
		"  function() return ('a'):match('[a') end, function() return ('a'):match('(a') "
		"end,\n"
		"  function() return ('a'):find('%') end, function() return ('a'):gmatch('(')() "
		"end,\n"
		"  function() return ('a'):find({}) end} do assert(pcall(f) == false, _) end\n"
		"local t = {3, 1, 2} table.sort(t) same({n = 3, table.unpack(t)}, 1, 2, 3)\n"
		"table.sort(t, function(a, b) return a > b end) assert(table.concat(t, ',') == "
		"'3,2,1')\n"
		"table.insert(t, 9) table.insert(t, 1, 8) assert(table.concat(t, ',', 1, 5) == "
		"'8,3,2,1,9')\n"
		"assert(table.remove(t) == 9 and table.remove(t, 1) == 8 and #t == 3)\n"
		"assert(#table.move(t, 1, 3, 2) == 4)\n"
		"assert(collectgarbage('count') > 1 and not pcall(collectgarbage))\n"
		"assert(not pcall(setmetatable, {}, {__gc = function() end}))\n"
		"assert(getmetatable(setmetatable({}, {__index = t})).__index == t)\n"
		"assert(ringpost.now() > 1e9 and ringpost.monotonic() > 0)\n");
}

Test(lua, coroutines)
{
	expect_runs(
		"local co = coroutine.create(function(a, b)\n"
		"  local c = coroutine.yield(a + b) local d, e = coroutine.yield(c) return d, e, "
		"'end' end)\n"
		"local function same(a, ...) for i = 1, select('#', ...) do\n"
		"  assert(a[i] == select(i, ...), tostring(a[i])) end end\n"
		"same({coroutine.resume(co, 1, 2)}, true, 3) same({coroutine.resume(co, 'c')}, "
		"true, 'c')\n"
		"assert(coroutine.status(co) == 'suspended')\n"
		"same({coroutine.resume(co, 1, 2)}, true, 1, 2, 'end')\n"
		"assert(coroutine.status(co) == 'dead')\n"
		"same({coroutine.resume(co)}, false, 'cannot resume dead coroutine')\n"
		"local sum = 0 for i in coroutine.wrap(function() for i = 1, 3 do "
		"coroutine.yield(i) end end) do\n"
		"  sum = sum + i end assert(sum == 6)\n"
		"co = coroutine.create(function() error('inside') end)\n"
		"local good, why = coroutine.resume(co) assert(not good and why:find('inside'))\n"
		"good, why = pcall(coroutine.wrap(function() error('again') end))\n"
		"assert(not good and why:find('again'))\n"
		"assert(coroutine.running() == nil and select(2, coroutine.running()) == true)\n"
		"co = coroutine.create(function() return coroutine.running() end)\n"
		"local _, it, main = coroutine.resume(co) assert(it == co and main == false)\n"
		"assert(not pcall(coroutine.resume, 1) and not pcall(coroutine.create, 1))\n"
		"co = coroutine.create(function() return coroutine.resume(co) end)\n"
		"same({coroutine.resume(co)}, true, false, 'cannot resume non-suspended "
		"coroutine')\n"
		"good, why = pcall(coroutine.yield, 1)\n"
		"assert(not good and why:find('outside a coroutine'))");
}

Test(lua, yielding_from_a_handler_is_an_error)
{
	expect_fails("coroutine.yield(1)", "attempt to yield from outside a coroutine");
}

/* ---- budget, time, memory ---- */

Test(lua, what_has_no_end_is_stopped)
{
	static const char *const bodies[] = {
		"while true do end",
		"while true do pcall(function() while true do end end) end",
		"pcall(function() while true do end end)",
		"local function f() pcall(f) while true do end end f()",
		"local function f() return f() end f()",
		"while true do pcall(error) end",
		/* A coroutine has no budget of its own. */
		"while true do coroutine.wrap(function() for i = 1, 10 do end end)() end",
		"while true do coroutine.resume(coroutine.create(function() while true do end "
		"end)) end",
		"local co = coroutine.wrap(function() while true do coroutine.yield() end end)\n"
		"while true do co() end",
		"coroutine.wrap(function() local t <close> = setmetatable({}, {__close = "
		"function()\n"
		"  while true do end end}) while true do end end)()",
		"local t <close> = setmetatable({}, {__close = function() while true do end end})\n"
		"while true do end",
		/* What loops without instructions. */
		"return ('a'):rep(4000):find('.-.-.-.-b')",
		"while true do pcall(string.find, ('a'):rep(4000), 'a-a-a-b') end",
		"return ('a'):rep(4000):gsub('a-a-b', '')",
		"for w in ('a'):rep(4000):gmatch('a-a-b') do end",
		"return (''):rep(1 << 60)",
		"table.move({}, 1, 1 << 60, 2)",
		"local t = {1, 1, nil, 1, 1} t[9] = 1 for i = 3, 40 do t[1 << i] = 1 end\n"
		"table.insert(t, 1, 1)",
		"local t = {1, 1, nil, 1, 1} t[9] = 1 for i = 3, 40 do t[1 << i] = 1 end\n"
		"table.remove(t, 1)",
		"local t = setmetatable({}, {__index = function() return '' end})\n"
		"return table.concat(t, '', 1, 1 << 60)",
		"local t = {} for i = 1, 5000 do t[i] = i % 7 end while true do table.sort(t) end",
		"local s = ('x'):rep(200000) while true do local t = s .. 'y' end",
		"local s = ('x'):rep(100000) while true do s:upper() end",
		"while true do load('return 1') end",
		"setmetatable(_G, {__index = function(t, k) return t[k .. 'x'] end}) return abc",
		"return (('x'):rep(1000):gsub('x', function() while true do end end))",
		"table.sort({3, 2, 1}, function() while true do end end)",
		"local t = {} for i = 1, 9000 do t[i] = i end table.sort(t, math.ult)",
	};

	for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
		static char text[1000];

		memset(&stats, 0, sizeof(stats));
		conf.hook_count = 0;
		snprintf(text, sizeof(text), "function rcpt(ev)\n%s\nend function mail() end",
			bodies[i]);
		begin_with(text);
		cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_NO, "%s", bodies[i]);
		cr_expect_eq(stats.lua_errors, 1u, "%s", bodies[i]);
		/* Deep recursion ends otherwise: by the stack, or the memory. */
		if (!strstr(bodies[i], "__index = function(t, k)"))
			cr_expect_eq(stats.lua_stopped, 1u, "%s: %s", bodies[i], logged());
		for (unsigned k = 0; k < 3; k++)
			cr_expect_eq(ask(HOOK_MAIL, "a"), HOOK_PASS, "%s", bodies[i]);
		cr_expect_eq(stats.lua_errors, 1u, "%s", bodies[i]);
		end();
	}
}

Test(lua, the_budget_is_of_one_call)
{
	struct conf_hook *h = script("function rcpt() for i = 1, 20000 do end end\n"
				     "function mail() for i = 1, 60000 do end end");

	h->budget = 50000;
	begin();
	for (unsigned i = 0; i < 20; i++)
		cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_PASS);
	cr_expect_eq(ask(HOOK_MAIL, "a"), HOOK_NO);
	EXPECT_LOGGED("mail: s0.lua:2: beyond its budget of instructions");
	cr_expect_eq(stats.lua_stopped, 1u);
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_PASS);
	end();
}

Test(lua, a_call_that_takes_long_is_told)
{
	struct conf_hook *h =
		script("local a, b = ('x'):rep(300000), ('x'):rep(300000)\n"
		       "function rcpt()\n"
		       "  local from = ringpost.monotonic()\n"
		       "  while ringpost.monotonic() < from + 0.045 and a == b do end\n"
		       "end");

	h->budget = 1ull << 60;
	begin();
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_PASS);
	cr_expect_eq(stats.hook_overruns, 1u);
	EXPECT_LOGGED("rcpt: held up a worker, milliseconds: ");
	end();
}

/* Comparing long strings is one instruction: only the clock sees it. */
Test(lua, the_clock_is_the_net_under_the_budget)
{
	struct conf_hook *h = script("local a, b = ('x'):rep(300000), ('x'):rep(300000)\n"
				     "function rcpt() while a == b do end end\n"
				     "function mail() end");

	h->budget = 1ull << 60;
	begin();
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_NO);
	EXPECT_LOGGED("rcpt: s0.lua:2: stopped: it held its worker for too long");
	cr_expect_eq(stats.lua_stopped, 1u);
	cr_expect_eq(stats.hook_overruns, 1u);
	cr_expect_eq(ask(HOOK_MAIL, "a"), HOOK_PASS);
	end();
}

/* Each comparison of these takes milliseconds, and no instruction runs between two of them. */
Test(lua, sorting_long_strings_is_stopped)
{
	struct conf_hook *h = script("local s = '\\0' for i = 1, 17 do s = s .. s end\n"
				     "function rcpt()\n"
				     "  local t = {} for i = 1, 1000 do t[i] = s end\n"
				     "  table.sort(t)\n"
				     "end");

	h->budget = 1ull << 60;
	begin();
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_NO);
	EXPECT_LOGGED("rcpt: stopped: it held its worker for too long");
	cr_expect_eq(stats.lua_stopped, 1u);
	end();
}

/* One that says few elements when it is asked for the price, and then many. */
Test(lua, lengths_that_lie)
{
	expect_runs("local n = 0 local t = setmetatable({}, {__len = function()\n"
		    "  n = n + 1 return n == 1 and 1 or 1 << 60 end})\n"
		    "for _, name in ipairs{'insert', 'remove', 'concat', 'sort', 'unpack'} do\n"
		    "  n = 0\n"
		    "  local good, why = pcall(table[name], t, name ~= 'sort' and 1 or nil,\n"
		    "    name == 'insert' and 1 or nil)\n"
		    "  assert(not good and why:find('__len'), why)\n"
		    "end\n"
		    "local got = {} for i = 1, 50 do got[i] = i * 7 % 50 end\n"
		    "table.sort(got, math.ult) for i = 1, 50 do assert(got[i] == i - 1) end\n"
		    "assert(not pcall(table.sort, {2, 1}, 1) and not pcall(table.sort, {1, 'x'}))");
}

Test(lua, memory_is_bounded)
{
	static const char *const bodies[] = {
		"local t = {} for i = 1, 1 << 30 do t[i] = {} end",
		"return ('x'):rep(1 << 24)",
		"local s = 'x' while true do s = s .. s end",
		"return table.concat({('x'):rep(400000), ('y'):rep(400000), ('z'):rep(400000)})",
		"local all = {} while true do all[#all + 1] = coroutine.create(function() end) end",
	};

	for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
		static char text[1000];

		memset(&stats, 0, sizeof(stats));
		conf.hook_count = 0;
		snprintf(text, sizeof(text), "function rcpt(ev)\n%s\nend function mail() end",
			bodies[i]);
		script(text)->budget = 1u << 30;
		begin();
		for (unsigned round = 1; round <= 3; round++) {
			cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_NO, "%s", bodies[i]);
			cr_expect_eq(stats.lua_memory, round, "%s: %s", bodies[i], logged());
			cr_expect_eq(ask(HOOK_MAIL, "a"), HOOK_PASS, "%s", bodies[i]);
		}
		cr_expect_leq(share()->bytes, share()->bytes_max);
		EXPECT_LOGGED("not enough memory");
		end();
	}
}

/* What a script keeps it keeps; then there is no memory for a call even. */
Test(lua, memory_that_is_full)
{
	begin_with("kept = {}\n"
		   "function rcpt() for i = 1, 1000 do kept = {kept} end end\n"
		   "function mail() kept = nil end");
	hooks[0].budget = 1u << 30;
	for (unsigned i = 0; i < 100 && stats.lua_memory == 0; i++)
		ask(HOOK_RCPT, "a");
	cr_expect_gt(stats.lua_memory, 0u);
	for (unsigned i = 0; i < 20; i++)
		cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_NO);
	cr_expect_eq(ask(HOOK_MAIL, "a"), HOOK_PASS, "%s", logged());
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_PASS, "%s", logged());
	end();
}

Test(lua, the_state_survives_errors)
{
	size_t bytes = 0;

	begin_with("count = 0\n"
		   "function rcpt(ev)\n"
		   "  count = count + 1\n"
		   "  if ev.address == 'n' then return nil + 1 end\n"
		   "  if ev.address == 'e' then error(setmetatable({}, {__tostring = error})) end\n"
		   "  if ev.address == 'r' then local function f() return 1 + f() end f() end\n"
		   "  if ev.address == 'c' then string.rep() end\n"
		   "  return ringpost.reject(tostring(count))\n"
		   "end");
	for (unsigned round = 0; round < 50; round++) {
		for (const char *c = "nerc"; *c; c++) {
			cr_expect_eq(ask(HOOK_RCPT, (char[]){*c, '\0'}), HOOK_NO);
			cr_expect_eq(word.reply->code, 451);
		}
		lua_gc(share()->main, LUA_GCCOLLECT, 0);
		if (round == 10)
			bytes = share()->bytes;
	}
	cr_expect_leq(share()->bytes, bytes + 100);
	ask(HOOK_RCPT, "x");
	EXPECT_NO(550, "5.7.1", "201", false);
	cr_expect_eq(stats.lua_errors, 200u);
	end();
}

/* ---- sleep ---- */

static void wait_until_woken(void)
{
	uint64_t until = ring_now_us(bed.r) + 20000000;

	woken = 0;
	while (!woken && ring_now_us(bed.r) < until)
		turn();
	cr_assert_eq(woken, 1u);
}

static const char sleeper[] =
	"function rcpt(ev)\n"
	"  if ev.address == 'quick' then return end\n"
	"  local a = ev.address\n"
	"  ringpost.sleep(0.02)\n"
	"  ringpost.sleep(0)\n"
	"  ev.user.slept = (ev.user.slept or 0) + 1\n"
	"  if a == 'error' then error('woken') end\n"
	"  if a == 'loop' then while true do end end\n"
	"  if a == 'change' then ev:set_address('new@z.example') return end\n"
	"  return ringpost.reject(ev.address .. ' ' .. ev.helo .. ' ' .. ev.sender .. ' '\n"
	"    .. ev.client .. ' ' .. ev.params .. ' ' .. tostring(ev.user.slept))\n"
	"end\n";

Test(lua, sleep_and_answer)
{
	char about[] = "to@y.example", helo[] = "sleepy.example";
	struct hook_event ev = make_event(HOOK_RCPT, about);

	begin_with(sleeper);
	for (unsigned round = 0; round < 3; round++) {
		strcpy(about, "to@y.example");
		strcpy(helo, "sleepy.example");
		ev = make_event(HOOK_RCPT, about);
		ev.helo = span_str(helo);
		cr_expect_eq(ask_of(0, &ev), HOOK_LATER);
		cr_expect_eq(stats.hooks_now, 1u);
		/* Where the event was is something else by now. */
		memset(about, 'x', sizeof(about) - 1);
		memset(helo, 'y', sizeof(helo) - 1);
		/* Others go on meanwhile. */
		cr_expect_eq(ask_of(1, &(struct hook_event){0}) == HOOK_PASS, true);
		wait_until_woken();
		cr_expect(hook_answered(&seats[0]));
		ev = make_event(HOOK_RCPT, about);
		cr_expect_eq(ask_of(0, &ev), HOOK_NO);
		cr_expect_eq(word.reply->text[strlen(word.reply->text) - 1], '1' + (char)round);
		cr_expect_eq(strncmp(word.reply->text,
				     "to@y.example sleepy.example from@x.example 192.0.2.1  ", 54),
			0, "%s", word.reply->text);
	}
	cr_expect_eq(stats.lua_errors, 0u);
	end();
}

/* What it points to is as well kept as the event. */
Test(lua, tls_behind_a_sleep)
{
	char of_tls[4][32] = {"TLSv1.3", "TLS_AES_128_GCM_SHA256", "Some One", "mx.example"};
	uint8_t sum[32] = {0xab, 0xcd, [30] = 0x01, 0xef};
	struct hook_event ev = make_event(HOOK_RCPT, "to@y.example");
	struct hook_tls tls = {.version = span_str(of_tls[0]),
		.cipher = span_str(of_tls[1]),
		.bits = 128,
		.subject = span_str(of_tls[2]),
		.sni = span_str(of_tls[3]),
		.verified = true,
		.sha256 = span_of(sum, sizeof(sum))};

	begin_with(shows_tls);
	ev.tls = &tls;
	cr_expect_eq(ask_of(0, &ev), HOOK_LATER);
	memset(of_tls, 'x', sizeof(of_tls));
	memset(sum, 0, sizeof(sum));
	memset(&tls, 0xff, sizeof(tls));
	wait_until_woken();
	ev = make_event(HOOK_RCPT, "to@y.example");
	cr_expect_eq(ask_of(0, &ev), HOOK_NO);
	EXPECT_NO(550, "5.7.1", TLS_TOLD("Some One", "true"), false);
	end();
}

Test(lua, many_sleep_at_once)
{
	struct hook_event ev = make_event(HOOK_RCPT, "to@y.example");
	unsigned answered = 0;

	begin_with(sleeper);
	for (unsigned i = 0; i < SESSIONS; i++)
		cr_expect_eq(ask_of(i, &ev), HOOK_LATER);
	for (unsigned i = 0; i < BED_TURNS_MAX && woken < SESSIONS; i++)
		turn();
	for (unsigned i = 0; i < SESSIONS; i++)
		answered += ask_of(i, &ev) == HOOK_NO;
	cr_expect_eq(answered, SESSIONS);
	/* Not all of what they needed is kept for later. */
	cr_expect_gt(share()->idle_count, 0u);
	cr_expect_lt(share()->idle_count, SESSIONS);
	end();
}

Test(lua, what_happens_behind_a_sleep)
{
	struct hook_edits *edits;
	struct hook_edit e;

	begin_with(sleeper);
	cr_expect_eq(ask(HOOK_RCPT, "error"), HOOK_LATER);
	wait_until_woken();
	EXPECT_LOGGED("rcpt: s0.lua:7: woken");
	cr_expect_eq(ask(HOOK_RCPT, "error"), HOOK_NO);
	cr_expect_eq(word.reply->code, 451);
	cr_expect_eq(stats.hook_failures, 1u);
	cr_expect_eq(ask(HOOK_RCPT, "loop"), HOOK_LATER);
	wait_until_woken();
	cr_expect_eq(ask(HOOK_RCPT, "loop"), HOOK_NO);
	cr_expect_eq(stats.lua_stopped, 1u);
	cr_expect_eq(ask(HOOK_RCPT, "change"), HOOK_LATER);
	wait_until_woken();
	cr_expect_eq(ask(HOOK_RCPT, "change"), HOOK_PASS);
	edits = hook_take_edits(&seats[0]);
	cr_assert(hook_edits_last(edits, EDIT_ADDRESS, &e));
	cr_expect(span_eq(e.value, SPAN_LIT("new@z.example")));
	hook_edits_free(edits);
	end();
}

Test(lua, a_sleep_that_is_forgotten)
{
	struct conf_hook *h = script(sleeper);

	begin();
	/* The session leaves. */
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_LATER);
	hook_leave(&core, &seats[0]);
	cr_expect_eq(timers.armed, 0u);
	/* The question is void. */
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_LATER);
	hook_forget(&core, &seats[0]);
	cr_expect_eq(timers.armed, 0u);
	/* Its deadline passes. */
	h->deadline_ms = 1;
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_LATER);
	wait_until_woken();
	cr_expect_eq(stats.hook_deadlines, 1u);
	cr_expect_eq(timers.armed, 0u);
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_NO);
	cr_expect_eq(word.reply->code, 451);
	/* And the next one is as any. */
	h->deadline_ms = 20000;
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_LATER);
	wait_until_woken();
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_NO);
	cr_expect_eq(word.reply->code, 550);
	end();
}

Test(lua, where_nobody_may_sleep)
{
	static const struct {
		const char *body, *complaint;
	} rows[] = {
		{"coroutine.wrap(function() ringpost.sleep(0) end)()",
			"sleep: not in a coroutine of the script"},
		{"table.sort({2, 1}, function(a, b) ringpost.sleep(0) return a < b end)",
			"sleep: not in a function that a library calls"},
		{"ringpost.sleep(-1)", "out of range"},
		{"ringpost.sleep(0/0)", "out of range"},
		{"ringpost.sleep(1e9)", "out of range"},
		{"ringpost.sleep('long')", "number expected"},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		memset(&stats, 0, sizeof(stats));
		expect_fails(rows[i].body, rows[i].complaint);
		conf.hook_count = 0;
	}
	memset(&stats, 0, sizeof(stats));
	begin_with("function reset() ringpost.sleep(0) end");
	tell(HOOK_RESET, NULL);
	cr_expect_eq(stats.lua_errors, 1u);
	cr_expect_eq(stats.hook_failures, 0u);
	EXPECT_LOGGED("reset: s0.lua:1: sleep: nobody waits for an answer to this event");
	end();
}

Test(lua, a_sleep_inside_of_pcall)
{
	begin_with("function rcpt(ev)\n"
		   "  local good, why = pcall(function() ringpost.sleep(0.01) error('x', 0) end)\n"
		   "  return ringpost.reject(tostring(good) .. why)\n"
		   "end");
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_LATER);
	wait_until_woken();
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_NO);
	EXPECT_NO(550, "5.7.1", "falsex", false);
	end();
}

Test(lua, no_room_to_sleep)
{
	begin_with(sleeper);
	core.calls_max = 0;
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_NO);
	cr_expect_eq(word.reply->code, 451);
	EXPECT_LOGGED("no room for a call that sleeps");
	end();
}

/* ---- changes ---- */

/* What was asked for, as text: "word name value index;". */
static const char *changes(void)
{
	static char text[1000];
	struct hook_edits *edits = hook_take_edits(&seats[0]);
	struct hook_edit e;
	size_t n = 0;

	text[0] = '\0';
	for (size_t at = 0; hook_edits_next(edits, &at, &e);)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s %.*s|%.*s|%u;",
			hook_edit_word(e.kind), (int)e.name.n, (const char *)e.name.p,
			(int)e.value.n, (const char *)e.value.p, e.index);
	hook_edits_free(edits);
	return text;
}

Test(lua, changes_of_the_envelope)
{
	begin_with("function mail(ev) ev:set_address('') ev:set_params('SIZE=10') end\n"
		   "function rcpt(ev)\n"
		   "  ev:set_address('a@b.example') ev:add_header('X-To', ev.address)\n"
		   "  if ev.address == 'refused' then return ringpost.reject() end\n"
		   "  if ev.address == 'failed' then error() end\n"
		   "end\n"
		   "function data(ev) ev:add_header('X-A', 'b;\\n\\tc', 0) end");
	cr_expect_eq(ask(HOOK_MAIL, "x"), HOOK_PASS);
	cr_expect_str_eq(changes(), "change-address ||0;change-parameters |SIZE=10|0;");
	cr_expect_eq(ask(HOOK_RCPT, "to@y.example"), HOOK_PASS);
	cr_expect_str_eq(
		changes(), "change-address |a@b.example|0;insert-header X-To| to@y.example|0;");
	cr_expect_eq(ask(HOOK_RCPT, "refused"), HOOK_NO);
	cr_expect_str_eq(changes(), "");
	cr_expect_eq(ask(HOOK_RCPT, "failed"), HOOK_NO);
	cr_expect_str_eq(changes(), "");
	cr_expect_eq(ask(HOOK_DATA, NULL), HOOK_PASS);
	cr_expect_str_eq(changes(), "insert-header X-A| b;\r\n\tc|0;");
	end();
}

Test(lua, changes_of_a_message)
{
	script("function end_of_data(ev)\n"
	       "  ev:add_header('A', '1') ev:add_header('B', '2', 7) ev:append_header('C', '')\n"
	       "  ev:change_header('D', 2, 'x') ev:delete_header('E', 1)\n"
	       "  ev:set_sender('s@x.example', 'SIZE=5') ev:set_sender('')\n"
	       "  ev:add_recipient('r@y.example', 'NOTIFY=NEVER')\n"
	       "  ev:delete_recipient('o@y.example')\n"
	       "  ev:replace_body('one\\r\\n') ev:replace_body('two\\r\\n')\n"
	       "end")
		->mode = HOOK_HOLD_ALL;
	begin();
	cr_expect_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	cr_expect_str_eq(changes(),
		"insert-header A| 1|0;insert-header B| 2|7;add-header C| |0;"
		"change-header D| x|2;delete-header E||1;change-sender SIZE=5|s@x.example|0;"
		"change-sender ||0;add-recipient NOTIFY=NEVER|r@y.example|0;"
		"delete-recipient |o@y.example|0;replace-body |one\r\ntwo\r\n|0;");
	end();
}

Test(lua, changes_that_are_wrong)
{
	static const struct {
		const char *body, *complaint;
	} rows[] = {
		{"ev:set_address('a b')", "set_address: this is no mailbox for this command"},
		{"ev:set_address(1)", "set_address: argument 1 has to be a string"},
		{"ev:set_address()", "set_address: argument 1 has to be a string"},
		{"ev:set_params('=')", "set_params: these are no parameters of this command"},
		{"ev:add_header('A: ', 'b')", "add_header: this is no header field"},
		{"ev:add_header('A', 'b\\nEvil: c')", "add_header: this is no header field"},
		{"ev:add_header('A', 'b', 1)", "no header is known yet to insert it behind"},
		{"ev:add_header('A', 'b', -1)", "add_header: the index is out of range"},
		{"ev:append_header('A', 'b')", "append_header: not possible at this event"},
		{"ev:replace_body('x')", "or not in this mode of the hook"},
		{"ev:set_sender('a@b.example')", "set_sender: not possible"},
		{"for i = 1, 2000 do ev:add_header('A', 'b') end", "there are too many changes"},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		memset(&stats, 0, sizeof(stats));
		expect_fails(rows[i].body, rows[i].complaint);
		conf.hook_count = 0;
	}
}

Test(lua, a_body_that_is_too_large)
{
	struct conf_hook *h =
		script("function end_of_data(ev)\n"
		       "  local s = ('x'):rep(100000) for i = 1, 20 do ev:replace_body(s) end\n"
		       "end");

	h->mode = HOOK_HOLD_ALL;
	h->budget = 1000000;
	begin();
	cr_expect_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_NO);
	EXPECT_LOGGED("replace_body: this body is too large");
	cr_expect_str_eq(changes(), "");
	end();
}

/* ---- body ---- */

Test(lua, a_body_that_was_not_seen_is_not_passed)
{
	struct hook_event ev;

	begin_with(
		"function body(ev) seen = (seen or '') .. ev.data\n"
		"  if ev.data == 'bad' then error('x') end end\n"
		"function end_of_data(ev) local s = seen seen = nil return ringpost.reject(s) end");
	tell(HOOK_BODY, "one ");
	tell(HOOK_BODY, "two");
	cr_expect_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_NO);
	EXPECT_NO(550, "5.7.1", "one two", false);
	tell(HOOK_BODY, "bad");
	cr_expect_eq(stats.lua_errors, 1u);
	cr_expect_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_NO);
	cr_expect_eq(word.reply->code, 451);
	/* The next message of the session is another. */
	ev = make_event(HOOK_END_OF_DATA, NULL);
	ev.tid++;
	cr_expect_eq(ask_of(0, &ev), HOOK_NO);
	EXPECT_NO(550, "5.7.1", "bad", false);
	end();
}

/* ---- log ---- */

Test(lua, log_lines)
{
	const char *text;

	begin_with("function data(ev)\n"
		   "  ringpost.log('error', 'first') ringpost.log('info', 'two\\nlines')\n"
		   "  print('a', 1, nil, true)\n"
		   "  ringpost.log('loud', 'x')\n"
		   "end");
	ask(HOOK_DATA, NULL);
	text = logged();
	cr_expect_not_null(
		strstr(text, "ev=hook-error level=error hook=h text=first\n"), "%s", text);
	cr_expect_not_null(strstr(text, "text=\"a 1 nil true\""), "%s", text);
	cr_expect_not_null(strstr(text, "data: s0.lua:4: bad argument #1 to 'log'"), "%s", text);
	end();
}

/* ---- workers ---- */

Test(lua, a_script_that_fails_in_a_worker)
{
	begin_with("function open() if ringpost.worker == 1 then error('not here') end end\n"
		   "function rcpt() return ringpost.reject(tostring(ringpost.worker)) end");
	ask(HOOK_RCPT, "a");
	EXPECT_NO(550, "5.7.1", "0", false);
	hook_leave(&core, &seats[0]);
	hook_core_fini(&core);
	cr_assert(hook_core_init(&core, &(struct hook_worker_conf){core.set, 1, SESSIONS, wake},
		&bed.ss, &timers, &stats, log_lines));
	cr_expect_eq(ask(HOOK_RCPT, "a"), HOOK_NO);
	cr_expect_eq(word.reply->code, 451);
	end();
}

/* ---- the example ---- */

static void recipient_of(const char *sender, enum hook_said want)
{
	struct hook_event ev = make_event(HOOK_RCPT, "to@y.example");

	hook_forget_replies(&core, &seats[0]);
	ev.sender = span_str(sender);
	cr_expect_eq(ask_of(0, &ev), want, "%s", sender);
}

static void set_clock(double seconds)
{
	char text[80];

	snprintf(text, sizeof(text), "ringpost.monotonic = function() return %f end", seconds);
	lua_share_arm(share());
	cr_assert_eq(luaL_dostring(share()->main, text), LUA_OK);
}

/* Of the tree this program was built in: build/<tree>/tests/unit/test_lua. */
static struct conf_hook *example(void)
{
	static char path[600];
	ssize_t n = readlink("/proc/self/exe", path, 400);

	cr_assert(n > 0);
	path[n] = '\0';
	for (unsigned up = 0; up < 5; up++)
		*strrchr(path, '/') = '\0';
	strcat(path, "/docs/examples/rcpt-limit.lua");
	/* A working copy may be writable for a group. */
	cr_assert_eq(chmod(path, 0644), 0);
	return add_hook(path);
}

Test(lua, the_example_counts_recipients)
{
	example();
	option("limit", "4");
	begin();
	set_clock(36000);
	for (unsigned i = 0; i < 4; i++)
		recipient_of(i % 2 ? "A@x.example" : "a@X.example", HOOK_PASS);
	recipient_of("a@x.example", HOOK_NO);
	EXPECT_NO(450, "4.7.1", "too many recipients in a short time, try again later", false);
	recipient_of("b@x.example", HOOK_PASS);
	/* Bounces count for the client. */
	for (unsigned i = 0; i < 4; i++)
		recipient_of("", HOOK_PASS);
	recipient_of("", HOOK_NO);
	/* In the middle of the next hour half of them still count. */
	set_clock(36000 + 3600);
	recipient_of("a@x.example", HOOK_NO);
	set_clock(36000 + 5400);
	recipient_of("a@x.example", HOOK_PASS);
	recipient_of("a@x.example", HOOK_PASS);
	recipient_of("a@x.example", HOOK_NO);
	set_clock(36000 + 3 * 3600);
	for (unsigned i = 0; i < 4; i++)
		recipient_of("a@x.example", HOOK_PASS);
	recipient_of("a@x.example", HOOK_NO);
	cr_expect_eq(stats.lua_errors, 0u);
	end();
}

Test(lua, the_example_forgets_senders)
{
	char sender[32];
	size_t high = 0;

	example();
	option("limit", "1");
	option("senders", "100");
	begin();
	recipient_of("first@x.example", HOOK_PASS);
	for (unsigned i = 0; i < 5000; i++) {
		snprintf(sender, sizeof(sender), "s%u@x.example", i);
		recipient_of(sender, HOOK_PASS);
		if (i % 40 == 0)
			recipient_of("first@x.example", HOOK_NO);
		if (i == 1000) {
			lua_gc(share()->main, LUA_GCCOLLECT, 0);
			high = share()->bytes;
		}
	}
	lua_gc(share()->main, LUA_GCCOLLECT, 0);
	cr_expect_leq(share()->bytes, high + high / 2);
	recipient_of("s0@x.example", HOOK_PASS);
	cr_expect_eq(stats.lua_errors, 0u);
	end();
}

Test(lua, the_example_judges_its_options)
{
	example();
	option("limits", "1");
	expect_refused("rcpt-limit.lua: there is no option `limits`");
	example();
	option("limit", "many");
	expect_refused("option `limit` has to be a whole number, 1 at least");
	example();
	option("window", "0");
	expect_refused("option `window` has to be");
}
