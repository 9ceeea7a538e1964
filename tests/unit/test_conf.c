/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * engine/conf: what is accepted, what it becomes, and what is said, with its place, about what is
 * not. Everything runs on texts in memory but the few tests about files; no clock, no network.
 */
#include "engine/conf/conf.h"
#include "engine/conf/conf_int.h"
#include "ring/listen.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <glob.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

/* Lines of a key under test: at the top 1, in the listener 5, in the upstream 6, in the hook 7. */
#define UPS "upstreams:\n  mta:\n    servers: 10.0.0.10:25\n"
#define MINIMAL "listeners:\n  in: {bind: 127.0.0.1:2525, upstream: mta}\n" UPS
#define TOP(x) x "\n" MINIMAL
#define IN(x) "listeners:\n  in:\n    bind: 127.0.0.1:2525\n    upstream: mta\n    " x "\n" UPS
#define UP(x) MINIMAL "    " x "\n"
#define HOOK(x)                                                               \
	"listeners:\n  in: {bind: 127.0.0.1:2525, upstream: mta, hooks: r}\n" \
	"upstreams: {mta: {servers: 10.0.0.10:25}}\nhooks:\n  r:\n    type: rules\n    " x "\n"
#define PLUGIN(x)                                                             \
	"listeners:\n  in: {bind: 127.0.0.1:2525, upstream: mta, hooks: p}\n" \
	"upstreams: {mta: {servers: 10.0.0.10:25}}\nhooks:\n  p:\n    type: plugin\n    " x "\n"
#define LOADED(x) PLUGIN("file: /x.so\n    " x) /* line 8 */
/* Hooks of the other types with all they need; one more key is in line 8. */
#define OTHER(type, need, x)                                                                     \
	"listeners:\n  in: {bind: 127.0.0.1:2525, upstream: mta, hooks: o}\n"                    \
	"upstreams: {mta: {servers: 10.0.0.10:25}}\nhooks:\n  o:\n    type: " type "\n    " need \
	"\n    " x "\n"
#define LUA(x) OTHER("lua", "file: /x.lua", x)
#define POLICY(x) OTHER("policy", "endpoint: 127.0.0.1:10023", x)
#define MILTER(x) OTHER("milter", "endpoint: \"unix:/run/m\"", x)
/* A hook of each type that may keep messages does, in line 2; a key of the top is in line 4. */
#define KEPT(x)                                                              \
	"listeners: {in: {bind: 127.0.0.1:2525, upstream: mta, hooks: k}}\n" \
	"hooks: {k: {type: lua, file: /k, mode: hold-all}}\n"                \
	"upstreams: {mta: {servers: 10.0.0.10:25}}\n" x "\n"
#define BIND(x) "listeners:\n  in:\n    upstream: mta\n    bind: " x "\n" UPS
#define SERVERS(x)                                                                         \
	"listeners: {in: {bind: 127.0.0.1:2525, upstream: mta}}\nupstreams:\n  mta:\n    " \
	"servers: " x "\n"

struct outcome {
	struct conf *c;
	char *said;
	size_t said_len;
};

static struct outcome load_bytes(const char *text, size_t n)
{
	struct outcome o = {0};
	FILE *err = open_memstream(&o.said, &o.said_len);

	o.c = conf_load_text("t.yaml", text, n, err);
	fclose(err);
	return o;
}

static struct outcome load(const char *text)
{
	return load_bytes(text, strlen(text));
}

static void done(struct outcome *o)
{
	conf_free(o->c);
	free(o->said);
}

static struct conf *load_good(const char *text)
{
	struct outcome o = load(text);

	cr_assert_not_null(o.c, "refused:\n%s\n%s", text, o.said);
	cr_assert_str_eq(o.said, "", "accepted, but:\n%s", o.said);
	free(o.said);
	return o.c;
}

static unsigned count_of(const char *text, const char *what)
{
	unsigned n = 0;

	for (; (text = strstr(text, what)) != NULL; text++)
		n++;
	return n;
}

static char *dumped(const struct conf *c)
{
	char *text = NULL;
	size_t n = 0;
	FILE *out = open_memstream(&text, &n);

	conf_dump(c, out);
	fclose(out);
	return text;
}

static char *read_text(const char *path)
{
	char *text = calloc(1, 1 << 17);
	FILE *f = fopen(path, "r");

	cr_assert_not_null(f, "cannot open %s", path);
	cr_assert_lt(fread(text, 1, 1 << 17, f), (size_t)1 << 17);
	fclose(f);
	return text;
}

/* The tests run in the source tree or in a build directory below it. */
static const char *in_tree(const char *path)
{
	static char buf[256];

	for (int up = 0; up < 8; up++) {
		size_t at = 0;

		for (int i = 0; i < up; i++)
			at += (size_t)snprintf(buf + at, sizeof(buf) - at, "../");
		snprintf(buf + at, sizeof(buf) - at, "%s", path);
		if (access(buf, R_OK) == 0)
			return buf;
	}
	cr_assert_fail("%s not found from here", path);
	return path;
}

/* ---- what is refused: one mistake each, its place and its words ---- */

struct bad {
	const char *text;
	const char *place; /* "5:10"; "" = the file as a whole */
	const char *words;
};

static const struct bad bads[] = {
	/* the file */
	{"", "", "the file is empty"},
	{"# nothing\n", "", "the file is empty"},
	{"just text\n", "1:1", "a mapping (`key: value`) is expected here"},
	{"- a\n- b\n", "1:1", "expected here, not a list"},
	{"listeners: {in: {bind: 127.0.0.1:25, upstream: mta}\n", "2:1", "YAML syntax: "},
	{"listeners:\n  in: [1, 2\nupstreams: 5\n", "3:10", "YAML syntax: "},
	{TOP("user: `x`"), "1:7", "put it into quotes"},
	{HOOK("reject-senders: [@bad.example]"), "7:22", "put it into quotes"},
	{"listeners:\n\tin: {}\n", "2:1", "YAML wants blanks here, not a tab"},
	{"user: \"\xff\"\n", "1:8", "not valid YAML text: invalid leading UTF-8 octet"},
	{MINIMAL "---\n" MINIMAL, "6:1", "a second YAML document"},
	{TOP("user: !secret x"), "1:7", "tags (`!secret`)"},
	{TOP("user: \"a\\0b\""), "1:7", "a value cannot hold a NUL octet"},
	{TOP("user: *nobody"), "1:7", "no anchor `&nobody` comes before this alias"},
	{TOP("log: &x {to: *x}"), "1:14", "an alias cannot stand inside its own anchor"},
	{TOP("? [a, b]\n: 1"), "1:3", "a key must be a single word"},
	{TOP("log: [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]"), "1:21", "nested too deeply"},
	{IN("<<: {hooks: []}"), "5:5", "merge keys are not supported"},
	{UPS, "", "`listeners` is missing"},
	{"listeners: {in: {bind: 127.0.0.1:25, upstream: m}}\nupstreams: {}\n", "2:12",
		"`upstreams` is empty"},
	{"upstreams: {mta: {servers: 10.0.0.10:25}}\nlisteners:\n", "2:11", "`listeners` is empty"},
	{TOP("hooks: [a]"), "1:8", "`hooks` takes a mapping"},
	{"listeners: {a b: {bind: 127.0.0.1:25, upstream: mta}}\n" UPS, "1:13",
		"a name cannot be `a b`"},
	{"listeners:\n  in: 127.0.0.1:25\n" UPS, "2:7", "a mapping (`key: value`) is expected"},

	/* keys */
	{TOP("worker: 2"), "1:1", "unknown key `worker`, did you mean `workers`?"},
	{TOP("shutdown_grace: 2s"), "1:1", "did you mean `shutdown-grace`?"},
	{TOP("colour: red"), "1:1",
		"unknown key `colour`: here there are workers, user, log, limits, shutdown-grace, "
		"hold, helpers, certificates, tls, listeners, upstreams, hooks"},
	{IN("recipients: 500"), "5:5", "it belongs to listeners.<name>.limits"},
	{IN("workers: 500"), "5:5", "it belongs to the top of the file"},
	{TOP("connect-timeout: 5s"), "1:1", "it belongs to hooks.<name>; here"},
	{TOP("threads: 5"), "1:1", "it belongs to helpers; here"},
	{TOP("hold: {threads: 5}"), "1:8", "it belongs to helpers; here"},
	{TOP("log: {message: 5m}"), "1:7",
		"it belongs to hold or listeners.<name>.limits; here there are to, format, level"},
	{TOP("log: {memory: 5m}"), "1:7", "it belongs to limits, hold or hooks.<name>; here"},
	{IN("limits: {recipeints: 500}"), "5:14", "did you mean `recipients`?"},
	{IN("timeouts: {greeting: 5m}"), "5:16", "it belongs to upstreams.<name>.timeouts"},
	{UP("server: 1"), "6:5", "did you mean `servers`?"},
	{TOP("workers: 1\nshutdown-grace: 1s\nworkers: 1"), "3:1",
		"duplicate key `workers`: it is there already in line 1"},
	{IN("bind: 127.0.0.1:2526"), "5:5", "duplicate key `bind`: it is there already in line 3"},
	{MINIMAL "  mta: {servers: 10.0.0.11:25}\n", "6:3", "duplicate key `mta`"},
	{"listeners:\n  in: {bind: 127.0.0.1:25, upstream: mta}\n"
	 "  in: {bind: 127.0.0.1:25, upstream: mtb}\n" UPS,
		"3:3", "duplicate key `in`"},
	{"listeners:\n  in: {upstream: mta}\n" UPS, "2:3", "`in` has no `bind`"},
	{"listeners:\n  in: {bind: 127.0.0.1:2525}\n" UPS, "2:3", "`in` has no `upstream`"},
	{MINIMAL "  two: {}\n", "6:3", "`two` has no `servers`"},
	{MINIMAL "  two:\n", "6:3", "`two` has no `servers`"},
	{MINIMAL "hooks:\n  r: {reject-senders: a@b.c}\n", "7:3", "`r` has no `type`"},

	/* not in this version */
	{TOP("metrics: {bind: 127.0.0.1:9155}"), "1:1", "no metrics endpoint yet"},
	{TOP("control: {}"), "1:1", "no control socket yet"},
	{IN("proxy-protocol: {from: 10.1.0.0/16}"), "5:5", "PROXY protocol"},
	{UP("mode: pool"), "6:11", "no pool mode yet"},
	{TOP("log: {to: syslog}"), "1:11", "does not log to syslog yet"},

	/* values */
	{TOP("shutdown-grace: 30"), "1:17", "`shutdown-grace` needs a unit: `30s` is 30 seconds"},
	{TOP("shutdown-grace: 1.5h"), "1:17", "`shutdown-grace` cannot be `1.5h`: write `500ms`"},
	{TOP("shutdown-grace: 25h"), "1:17", "must be between 0 and 24h, not 25h"},
	{TOP("shutdown-grace: 99999999999999999999h"), "1:17", "must be between 0 and 24h"},
	{TOP("shutdown-grace: [1s, 2s]"), "1:17", "takes one value, not a list"},
	{TOP("shutdown-grace:"), "1:16", "`shutdown-grace` has no value"},
	{TOP("shutdown-grace: \"\""), "1:17", "`shutdown-grace` has no value"},
	{TOP("limits: {sessions: many}"), "1:20",
		"`sessions` cannot be `many`: write `500`, `20k`"},
	{TOP("limits: {sessions: -1}"), "1:20", "`sessions` cannot be `-1`"},
	{TOP("limits: {sessions: 0}"), "1:20", "must be between 1 and 4m, not 0"},
	{TOP("limits: {memory: 64kb}"), "1:18", "`memory` cannot be `64kb`"},
	{TOP("limits: {memory: 2t}"), "1:18", "must be between 1m and 1t, not 2t"},
	{TOP("limits: {pressure: maybe}"), "1:20", "write `on` or `off`"},
	{TOP("log: {level: debgu}"), "1:14",
		"did you mean `debug`? (it can be error, warn, info, debug)"},
	{TOP("log: {format: binary}"), "1:15", "it can be json, logfmt"},
	{TOP("log: {to: /var/log/x}"), "1:11", "write `stderr` or `file:"},
	{TOP("workers: 0"), "1:10", "must be between 1 and 1024, not 0"},
	{TOP("workers: 99999999999999999999999"), "1:10", "must be between 1 and 1024"},
	{TOP("workers: 3-1"), "1:10", "write `auto`, `4` or `0-7,^3`"},
	{TOP("workers: 0-1024"), "1:10", "write `auto`"},
	{TOP("workers: 0,^0"), "1:10", "leaves no CPU"},
	{IN("limits: {per-client-rate: 600}"), "5:31", "write `10/s`, `600/min`"},
	{IN("limits: {per-client-rate: 6/fortnight}"), "5:31", "write `10/s`, `600/min`"},
	{IN("limits: {pipeline: 256}"), "5:24", "must be between 1 and 250, not 256"},
	{IN("limits: {command-line: 511}"), "5:28", "must be between 512 and 4k, not 511"},
	{IN("limits: {command-line: 8k}"), "5:28", "must be between 512 and 4k, not 8k"},
	{IN("limits: {recipients: 99}"), "5:26", "must be between 100 and 1m, not 99"},
	{UP("timeouts: {final-reply: 599s}"), "6:29", "must be between 10m and 24h, not 599s"},
	{UP("mover: spilce"), "6:12", "did you mean `splice`?"},
	{UP("balance: random"), "6:14", "it can be round-robin"},
	{IN("bare-newlines: strip"), "5:20", "it can be guard, reject, normalize, pass"},

	/* addresses and networks */
	{BIND("localhost:25"), "4:11", "does not look names up"},
	{BIND("127.0.0.1"), "4:11", "`127.0.0.1` has no port: write `127.0.0.1:25`"},
	{BIND("\"::1\""), "4:11", "`::1` has no port: write `[::1]:25`"},
	{BIND("127.0.0.1:65536"), "4:11", "`bind` cannot be `127.0.0.1:65536`"},
	{BIND("[]"), "4:11", "`bind` has no value"},
	{BIND("\"[::ffff:127.0.0.1]:25\""), "4:11", "write it as IPv4"},
	{BIND("[127.0.0.1:25, [127.0.0.1:26]]"), "4:26", "takes one value, not a list"},
	{SERVERS("mail.example.org:25"), "4:14", "does not look names up"},
	{SERVERS("10.0.0.10:0"), "4:14", "`10.0.0.10:0`: port 0 is none"},
	{SERVERS("0.0.0.0:25"), "4:14", "not an address one can connect to"},
	{UP("source: 10.0.0.1:25"), "6:13", "write an address without a port"},
	{UP("source: \"2001:db8::1\""), "6:13", "`source` is IPv6, server `10.0.0.10:25` is IPv4"},
	{UP("source: 0.0.0.0"), "6:13", "leave `source` out"},
	{IN("clients: 10.0.0.1/8"), "5:14", "did you mean `10.0.0.0/8`?"},
	{IN("clients: 10.0.0.0/33"), "5:14", "a network is 10.0.0.0/8"},
	{IN("clients: [10.0.0.0/8, example.org]"), "5:27", "`clients` cannot be `example.org`"},
	{IN("clients: 0.0.0.0/0"), "5:14", "is everybody: write `any`"},
	{IN("clients: \"::ffff:0.0.0.0/96\""), "5:14", "is everybody: write `any`"},
	{IN("clients: \"::/0\""), "5:14", "is everybody: write `any`"},
	{IN("clients: [any, 10.0.0.0/8]"), "5:15", "`any` stands alone"},
	{IN("clients: []"), "5:14", "`clients` has no value"},
	{IN("trusted: any"), "5:14", "would let everybody pretend"},

	/* across keys */
	{BIND("0.0.0.0:25"), "4:11",
		"can be reached from other hosts, but `in` has no `clients`: anybody could send "
		"mail"},
	{BIND("[127.0.0.1:25, 192.0.2.1:25]"), "4:26", "or listen on a loopback address"},
	{"listeners:\n  a: {bind: 127.0.0.1:25, upstream: mta}\n"
	 "  b: {bind: 127.0.0.1:25, upstream: mta}\n" UPS,
		"3:13", "`127.0.0.1:25` is taken: listener `a` has `127.0.0.1:25` in line 2"},
	{"listeners:\n  a: {bind: 0.0.0.0:25, clients: any, upstream: mta}\n"
	 "  b: {bind: 127.0.0.1:25, upstream: mta}\n" UPS,
		"3:13", "is taken: listener `a` has `0.0.0.0:25`"},
	{BIND("[127.0.0.1:25, 127.0.0.2:25, 127.0.0.1:25]"), "4:40", "is taken"},
	{BIND("[\"unix:/tmp/a\", \"unix:/tmp/a\"]"), "4:27", "is taken"},
	{"listeners:\n  in: {bind: 127.0.0.1:2525, upstream: mtaa}\n" UPS, "2:40",
		"upstream `mtaa` is not defined, did you mean `mta`?"},
	{"listeners:\n  in: {bind: 127.0.0.1:2525, upstream: elsewhere}\n" UPS, "2:40",
		"`upstreams` has no such name"},
	{IN("hooks: [rules]"), "5:13", "hook `rules` is not defined"},
	{"listeners:\n  in: {bind: 127.0.0.1:2525, upstream: mta, hooks: [r, r]}\n" UPS
	 "hooks: {r: {type: rules, reject-ehlo: a.b}}\n",
		"2:56", "hook `r` is in the list twice"},
	{SERVERS("127.0.0.1:2525"), "4:14", "mail would go round in a circle"},
	{"listeners: {in: {bind: 0.0.0.0:25, clients: any, upstream: mta}}\nupstreams:\n  mta:\n"
	 "    servers: [10.0.0.10:25, 127.0.0.1:25]\n",
		"4:29", "is where listener `in` listens (line 1)"},

	/* hooks and extensions */
	{HOOK("reject-senders: nobody"), "7:21", "`nobody` is no address"},
	{HOOK("reject-senders: \"a@b..c\""), "7:21", "the domain is not one"},
	{HOOK("reject-senders: \"a b@c.d\""), "7:21", "no local part"},
	{HOOK("reject-recipients: <>"), "7:24", "`<>` is a sender"},
	{HOOK("reject-ehlo: a@b"), "7:18", "`a@b` is no host name"},
	{HOOK("reply: 250 2.0.0 fine"), "7:12", "a refusal is 4xx or 5xx"},
	{HOOK("reply: 421 4.7.0 bye"), "7:12", "421 would end the session"},
	{HOOK("reply: 550 4.7.1 no"), "7:12", "4.7.1 and the code 550 are not of one class"},
	{HOOK("reply: {code: 450, enhanced: 5.7.1}"), "7:34", "5.7.1 and the code 450"},
	{HOOK("reply: {enhanced: 5.7}"), "7:23", "`enhanced` cannot be `5.7`"},
	{HOOK("reply: {enhanced: 5.7.1000}"), "7:23", "`enhanced` cannot be `5.7.1000`"},
	{HOOK("reply: {enhanced: 5.07.1}"), "7:23", "`enhanced` cannot be `5.07.1`"},
	{HOOK("reply: {enhanced: 2.0.0}"), "7:23", "`enhanced` cannot be `2.0.0`"},
	{HOOK("reply: {text: \"two\\nlines\"}"), "7:19", "one line of printable ASCII"},
	{HOOK("reply: {text: \"gr\xc3\xbc\xc3\x9f\"}"), "7:19", "printable ASCII"},

	/* plugins, and the keys of another type */
	{PLUGIN("deadline: 1s"), "5:3", "`p` has no `file`"},
	{PLUGIN("file:"), "7:10", "`file` has no value"},
	{PLUGIN("file: [/x.so]"), "7:11", "`file` takes one value, not a list"},
	{PLUGIN("file: lib/x.so"), "7:11",
		"`file` is a relative path (`lib/x.so`), which would depend on where ringpost is "
		"started: write an absolute one, such as `/usr/lib/ringpost/name.so`"},
	{PLUGIN("file: ./x.so"), "7:11", "is a relative path (`./x.so`)"},
	{PLUGIN("file: \"/x\\ty.so\""), "7:11", "without control characters"},
	{PLUGIN("file: \"/x\\x7f.so\""), "7:11", "without control characters"},
	{PLUGIN("file: \"/x\\0y.so\""), "7:11", "a value cannot hold a NUL octet"},
	{LOADED("deadline: 9ms"), "8:15", "must be between 10ms and 1h, not 9ms"},
	{LOADED("deadline: 61m"), "8:15", "must be between 10ms and 1h, not 61m"},
	{LOADED("deadline: 0"), "8:15", "must be between 10ms and 1h, not 0"},
	{LOADED("deadline: 30"), "8:15", "`deadline` needs a unit"},
	{LOADED("on-failure: rejct"), "8:17",
		"did you mean `reject`? (it can be accept, tempfail, reject)"},
	{LOADED("on-failure: drop"), "8:17", "it can be accept, tempfail, reject"},
	{LOADED("options: [a, b]"), "8:14", "`options` takes a mapping: write `{name: value"},
	{LOADED("options: fast"), "8:14", "`options` takes a mapping"},
	{LOADED("options: {a: [1, 2]}"), "8:18", "option `a` takes one value, not a list"},
	{LOADED("options: {a: {b: c}}"), "8:18", "option `a` takes one value, not a mapping"},
	{LOADED("options: {a: ~}"), "8:18", "option `a` has no value: quote it"},
	{LOADED("options: {a: 1, a b: 2}"), "8:21", "an option cannot be called `a b`"},
	{LOADED("options: {\"\": 2}"), "8:15", "an option cannot be called ``"},
	{LOADED("options: {-a: 2}"), "8:15", "an option cannot be called `-a`"},
	{LOADED("options: {a: 1, b: 2, a: 3}"), "8:27",
		"duplicate key `a`: it is there already in line 8"},
	{LOADED("options: {a: 1}\n    options: {b: 1}"), "9:5", "duplicate key `options`"},
	{LOADED("optoins: {a: 1}"), "8:5", "unknown key `optoins`, did you mean `options`?"},
	{LOADED("bind: 127.0.0.1:25"), "8:5",
		"it belongs to listeners.<name>; here there are type, file, mode, deadline, "
		"on-failure, options"},
	{HOOK("bind: 127.0.0.1:25"), "7:5",
		"here there are type, reject-senders, reject-recipients, reject-ehlo, "
		"reject-clients, reply"},
	{IN("deadline: 2s"), "5:5", "unknown key `deadline`: it belongs to hooks.<name>"},
	{HOOK("file: /x.so"), "7:5",
		"`file` is a key of type plugin or lua, and `r` is of type rules: built-in lists, "
		"which answer at once"},
	{HOOK("options: {a: 1}"), "7:5", "`options` is a key of type plugin or lua, and"},
	{HOOK("deadline: 2s"), "7:5",
		"`deadline` is a key of type plugin, lua, policy or milter, and"},
	{HOOK("on-failure: accept"), "7:5",
		"`on-failure` is a key of type plugin, lua, policy or milter, and"},
	{HOOK("mode: stream"), "7:5", "`mode` is a key of type plugin, lua or milter, and"},
	{HOOK("events: [mail]"), "7:5", "`events` is a key of type policy, and"},
	{LOADED("reject-senders: <>"), "8:5",
		"`reject-senders` is a key of type rules, and `p` is of type plugin: a shared "
		"object"},
	{LOADED("reject-recipients: a@b.c"), "8:5", "`reject-recipients` is a key of type rules"},
	{LOADED("reject-ehlo: a.b"), "8:5", "`reject-ehlo` is a key of type rules"},
	{LOADED("reject-clients: any"), "8:5", "`reject-clients` is a key of type rules"},
	{LOADED("reply: 550 no"), "8:5", "`reply` is a key of type rules"},
	/* What the key says does not count then. */
	{HOOK("file: x.so"), "7:5", "`file` is a key of type plugin or lua"},
	{LOADED("reply: 250 4.7.1 no"), "8:5", "`reply` is a key of type rules"},
	{MINIMAL "hooks:\n  r: {file: x.so, reply: 250}\n", "7:3", "`r` has no `type`"},
	{MINIMAL "hooks:\n  r: {type: plugins, file: x.so}\n", "7:13",
		"did you mean `plugin`? (it can be rules, plugin, lua, policy, milter)"},
	{LOADED("mode: hold_all"), "8:11",
		"did you mean `hold-all`? (it can be stream, hold-end, hold-all)"},
	{LOADED("mode: [stream]"), "8:11", "`mode` takes one value, not a list"},
	{LOADED("budget: 1m"), "8:5",
		"`budget` is a key of type lua, and `p` is of type plugin: a shared object"},
	{LOADED("memory: 1m"), "8:5", "`memory` is a key of type lua, and"},
	{LOADED("endpoint: 127.0.0.1:1"), "8:5", "`endpoint` is a key of type policy or milter"},

	/* scripts */
	{OTHER("lua", "budget: 1m", "deadline: 1s"), "5:3", "`o` has no `file`"},
	{OTHER("lua", "file: x.lua", "deadline: 1s"), "7:11",
		"`file` is a relative path (`x.lua`)"},
	{LUA("budget: 999"), "8:13", "must be between 1k and 1000m, not 999"},
	{LUA("budget: 1001m"), "8:13", "must be between 1k and 1000m, not 1001m"},
	{LUA("budget: 1g"), "8:13", "`budget` cannot be `1g`: write `500`, `20k` or `2m`"},
	{LUA("memory: 1023k"), "8:13", "must be between 1m and 4g, not 1023k"},
	{LUA("memory: 5g"), "8:13", "must be between 1m and 4g, not 5g"},
	{LUA("mode: hold"), "8:11", "it can be stream, hold-end, hold-all"},
	{LUA("deadline: 2h"), "8:15", "must be between 10ms and 1h, not 2h"},
	{LUA("on-failure: pass"), "8:17", "it can be accept, tempfail, reject"},
	{LUA("options: [a]"), "8:14", "`options` takes a mapping"},
	{LUA("connections: 5"), "8:5",
		"`connections` is a key of type policy or milter, and `o` is of type lua: a "
		"script"},

	/* policy servers */
	{OTHER("policy", "events: rcpt", "queue: 5"), "5:3", "`o` has no `endpoint`"},
	{OTHER("policy", "endpoint:", "queue: 5"), "7:14", "`endpoint` has no value"},
	{OTHER("policy", "endpoint: [127.0.0.1:1]", "queue: 5"), "7:15",
		"`endpoint` takes one value, not a list"},
	{OTHER("policy", "endpoint: 127.0.0.1", "queue: 5"), "7:15",
		"`127.0.0.1` has no port: write `127.0.0.1:PORT`"},
	{OTHER("policy", "endpoint: \"::1\"", "queue: 5"), "7:15",
		"`::1` has no port: write `[::1]:PORT`"},
	{OTHER("policy", "endpoint: localhost:10023", "queue: 5"), "7:15",
		"does not look names up: write an address such as `127.0.0.1:10023`"},
	{OTHER("policy", "endpoint: /run/policy", "queue: 5"), "7:15",
		"`endpoint` cannot be `/run/policy`: write `127.0.0.1:10023`, `\"[::1]:10023\"` or "
		"`unix:/path`"},
	{OTHER("policy", "endpoint: 127.0.0.1:0", "queue: 5"), "7:15", "port 0 is none"},
	{OTHER("policy", "endpoint: 0.0.0.0:10023", "queue: 5"), "7:15",
		"not an address one can connect to"},
	{OTHER("policy", "endpoint: 127.0.0.1:2525", "queue: 5"), "7:15",
		"`127.0.0.1:2525` is where listener `in` listens (line 2): ringpost would ask "
		"itself"},
	{POLICY("connections: 0"), "8:18", "must be between 1 and 100k, not 0"},
	{POLICY("connections: 100001"), "8:18", "must be between 1 and 100k, not"},
	{POLICY("queue: 2m"), "8:12", "must be between 0 and 1m, not 2m"},
	{POLICY("queue: -1"), "8:12", "`queue` cannot be `-1`"},
	{POLICY("connect-timeout: 99ms"), "8:22", "must be between 100ms and 1h, not 99ms"},
	{POLICY("connect-timeout: 10"), "8:22", "`connect-timeout` needs a unit"},
	{POLICY("idle-timeout: 0"), "8:19", "must be between 1s and 24h, not 0"},
	{POLICY("lifetime: 25h"), "8:15", "must be between 1s and 24h, not 25h"},
	{POLICY("events: []"), "8:13", "`events` has no value"},
	{POLICY("events:"), "8:12", "`events` has no value"},
	{POLICY("events: {rcpt: on}"), "8:13", "takes a value or a list of values"},
	{POLICY("events: [rcpt, rctp]"), "8:20",
		"did you mean `rcpt`? (it can be connect, ehlo, mail, rcpt, data, end-of-data)"},
	{POLICY("events: auth"), "8:13", "`events` cannot be `auth`: it can be connect, ehlo,"},
	{POLICY("events: [mail, rcpt, mail]"), "8:26", "`mail` is in the list twice"},
	{POLICY("events: [mail, rcpt, data, ehlo, connect, end-of-data, rcpt]"), "8:13",
		"`events` has 7 values, 6 at most are allowed"},
	{POLICY("context: \"a\\nb\""), "8:14", "`context` must be one line of printable ASCII"},
	{POLICY("context:"), "8:13", "`context` has no value"},
	{POLICY("context: ~"), "8:14", "`context` has no value"},
	{POLICY("deadline: 9ms"), "8:15", "must be between 10ms and 1h, not 9ms"},
	{POLICY("on-failure: shutdown"), "8:17", "it can be accept, tempfail, reject"},
	{POLICY("mode: stream"), "8:5",
		"`mode` is a key of type plugin, lua or milter, and `o` is of type policy: a "
		"policy "
		"server, which is asked about the envelope"},
	{POLICY("content-deadline: 5m"), "8:5", "`content-deadline` is a key of type milter, and"},
	{POLICY("conections: 5"), "8:5", "unknown key `conections`, did you mean `connections`?"},
	{POLICY("bind: 127.0.0.1:25"), "8:5",
		"here there are type, endpoint, connections, queue, connect-timeout, events, "
		"context, idle-timeout, lifetime, deadline, on-failure"},

	/* filters */
	{OTHER("milter", "queue: 5", "mode: stream"), "5:3", "`o` has no `endpoint`"},
	{OTHER("milter", "endpoint: inet:8891@localhost", "mode: stream"), "7:15",
		"write an address such as `127.0.0.1:10023`"},
	{MILTER("connections: 0"), "8:18", "must be between 1 and 100k, not 0"},
	{MILTER("queue: 2m"), "8:12", "must be between 0 and 1m, not 2m"},
	{MILTER("connect-timeout: 2h"), "8:22", "must be between 100ms and 1h, not 2h"},
	{MILTER("mode: hold-none"), "8:11", "did you mean `hold-end`?"},
	{MILTER("quarantine: hold"), "8:17", "it can be reject, tempfail, discard, accept"},
	{MILTER("content-deadline: 2h"), "8:23", "must be between 10ms and 1h, not 2h"},
	{MILTER("content-deadline: 5"), "8:23", "`content-deadline` needs a unit"},
	{MILTER("daemon-name: \"\""), "8:18", "`daemon-name` has no value"},
	{MILTER("daemon-name: gr\xc3\xbc\xc3\x9f"), "8:18", "one line of printable ASCII"},
	{MILTER("deadline: 2h"), "8:15", "must be between 10ms and 1h, not 2h"},
	{MILTER("on-failure: discard"), "8:17", "it can be accept, tempfail, reject"},
	{MILTER("events: rcpt"), "8:5",
		"`events` is a key of type policy, and `o` is of type milter: a mail filter"},
	{MILTER("options: {a: 1}"), "8:5", "`options` is a key of type plugin or lua, and"},
	{MILTER("message: 5m"), "8:5", "it belongs to hold or listeners.<name>.limits; here"},

	/* messages that are kept, helpers */
	{TOP("hold: 5m"), "1:7", "a mapping (`key: value`) is expected here"},
	{TOP("hold: {memory: 1023k}"), "1:16", "must be between 1m and 1t, not 1023k"},
	{TOP("hold: {disk: 65t}"), "1:14", "must be between 0 and 64t, not 65t"},
	{TOP("hold: {spill: 16383}"), "1:15", "must be between 16k and 1g, not 16383"},
	{TOP("hold: {message: 65535}"), "1:17", "must be between 64k and 2047m, not 65535"},
	{TOP("hold: {directory: tmp}"), "1:19",
		"`directory` is a relative path (`tmp`), which would depend on where ringpost is "
		"started: write an absolute one"},
	{TOP("hold: {dir: /tmp}"), "1:8", "here there are memory, disk, spill, message, directory"},
	{TOP("helpers: {threads: 0}"), "1:20", "must be between 1 and 256, not 0"},
	{TOP("helpers: {threads: 257}"), "1:20", "must be between 1 and 256, not 257"},
	{TOP("helpers: {queue: 0}"), "1:18", "must be between 1 and 1m, not 0"},
	{TOP("hold: {memory: 1m, spill: 513k}"), "1:16",
		"the `memory` of `hold` (1m) is too little: there must be room for twice the "
		"`spill` (513k)\n"},
	{TOP("workers: 4\nhold: {spill: 129m}"), "2:15", "for twice the `spill` (129m)\n"},
	{TOP("hold: {message: 2g}"), "1:17", "must be between 64k and 2047m, not 2g"},
	{TOP("hold: {message: 2047m, disk: 1g}"), "1:17",
		"a `message` of 2047m could never be kept: what is beyond its `spill` must find "
		"room in the `disk` of `hold` (1g)\n"},
	{TOP("hold: {disk: 49m}"), "1:14", "a `message` of 50m could never be kept"},
	{TOP("hold: {disk: 0, spill: 1m}"), "1:14", "in the `disk` of `hold` (0)\n"},
	{KEPT("workers: 4\nhold: {memory: 2047k}"), "5:16",
		"for twice the `spill` (256k), in the share of each of 4 workers"},
	{KEPT("workers: 4\nhold: {spill: 33m}"), "5:15", "for twice the `spill` (33m), in the"},
	{KEPT("workers: 4\nhold: {spill: 1g, memory: 7g}"), "5:27", "is too little"},
	{KEPT("workers: 1024\nhold: {disk: 1t}"), "2:40",
		"the `memory` of `hold` (256m) is too little: there must be room for twice the "
		"`spill` (256k), in the share of each of 1024 workers"},
	{KEPT("workers: 4\nhold: {message: 2047m}"), "5:17",
		"in the `disk` of `hold` (4g), in the share of each of 4 workers"},
	{KEPT("workers: 4\nhold: {disk: 190m}"), "5:14", "a `message` of 50m could never be kept"},
	{KEPT("workers: 100"), "2:40", "a `message` of 50m could never be kept"},

	{IN("extensions: {BURL: pass}"), "5:18",
		"BURL cannot be passed: the server would fetch a body nobody saw"},
	{IN("extensions: {xclient: pass}"), "5:18", "is governed by `trusted`"},
	{IN("extensions: {PRDR: pass}"), "5:18", "changes the number of replies"},
	{IN("extensions: {CHECKPOINT: pass}"), "5:18", "changes how a body is framed"},
	{IN("extensions: {X-EXPS: pass}"), "5:18", "an exchange we cannot frame"},
	{IN("extensions: {XEXCH50: pass}"), "5:18", "a payload we cannot frame"},
	{IN("extensions: {STARTTLS: strip}"), "5:18", "governed by the listener's `starttls`"},
	{IN("extensions: {DSN: hide}"), "5:23", "can be pass or strip"},
	{IN("extensions: {DSN: strip, dsn: pass}"), "5:30", "there twice"},
	{IN("extensions: {X-A: strip, x-a: pass}"), "5:30", "there twice"},
	{IN("extensions: {\"NOT A WORD\": strip}"), "5:18", "no EHLO keyword"},
	{IN("extensions: strip"), "5:17", "`extensions` takes a mapping"},

	/* expansion */
	{TOP("user: ${env:CONF_TEST_NOWHERE}"), "1:7",
		"the environment variable `CONF_TEST_NOWHERE` is not set"},
	{TOP("user: ${file:/nowhere/at/all}"), "1:7",
		"cannot read the file `/nowhere/at/all`: No such file"},
	{TOP("user: ${file:/}"), "1:7", "cannot read the file `/`: not a regular file"},
	{TOP("user: ${home}"), "1:7", "only ${env:NAME} and ${file:PATH} expand"},
	{TOP("user: x${env:HOME"), "1:7", "`${` without its `}`"},
};

static void check_bad(const struct bad *b)
{
	struct outcome o = load(b->text);
	char head[64];

	cr_expect_null(o.c, "accepted:\n%s", b->text);
	snprintf(head, sizeof(head), "t.yaml:%s%s error: ", b->place, b->place[0] != 0 ? ":" : "");
	cr_expect(strncmp(o.said, head, strlen(head)) == 0, "not at %s\n%s%s", b->place, b->text,
		o.said);
	cr_expect_not_null(
		strstr(o.said, b->words), "no \"%s\" for\n%s%s", b->words, b->text, o.said);
	cr_expect_not_null(strstr(o.said, "\n1 error\n"), "not one error:\n%s%s", b->text, o.said);
	done(&o);
}

Test(conf, refuses_each_mistake_at_its_place)
{
	cr_assert_geq(ARRAY_LEN(bads), 40u);
	for (size_t i = 0; i < ARRAY_LEN(bads); i++)
		check_bad(&bads[i]);
}

Test(conf, message_has_the_line_and_a_caret)
{
	struct outcome o = load(TOP("log: {level: \"w\xc3\xb6rn\", fromat: json}"));

	cr_assert_str_eq(o.said,
		"t.yaml:1:14: error: `level` cannot be `w\xc3\xb6rn`: it can be "
		"error, warn, info, debug\n"
		"  log: {level: \"w\xc3\xb6rn\", fromat: json}\n"
		"               ^\n"
		"t.yaml:1:22: error: unknown key `fromat`, did you mean `format`?\n"
		"  log: {level: \"w\xc3\xb6rn\", fromat: json}\n"
		"                       ^\n"
		"2 errors\n");
	done(&o);
}

Test(conf, reports_all_errors_of_a_file_in_one_run_in_its_order)
{
	static const char text[] = "workers: none\n"		       /* 1 */
				   "shutdown-grace: 30\n"	       /* 2 */
				   "log: {level: loud, to: nowhere}\n" /* 3, two of them */
				   "listeners:\n"		       /* 4 */
				   "  a:\n"			       /* 5 */
				   "    bind: 0.0.0.0:25\n"	       /* 6: open */
				   "    upstream: mtb\n"	       /* 7 */
				   "    limits: {pipeline: 0, recpients: 1000}\n" /* 8, two */
				   "  b: {bind: 127.0.0.1:25, upstream: mta}\n"	  /* 9: taken */
				   "upstreams:\n"				  /* 10 */
				   "  mta: {servers: nowhere:25, mover: fast}\n"  /* 11, two */
				   "metrics: {}\n";				  /* 12 */
	static const unsigned lines[] = {1, 2, 3, 3, 6, 7, 8, 8, 9, 11, 11, 12};
	struct outcome o = load(text);
	const char *p = o.said;

	cr_assert_null(o.c);
	cr_assert_eq(count_of(o.said, ": error: "), 12u, "%s", o.said);
	cr_assert_not_null(strstr(o.said, "\n12 errors\n"));
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		p = strstr(p, "t.yaml:");
		cr_assert_not_null(p);
		cr_assert_eq((unsigned)atoi(p + 7), lines[i], "message %zu:\n%s", i, p);
		p++;
	}
	done(&o);
}

Test(conf, reports_all_errors_of_hooks_in_one_run)
{
	static const char text[] = MINIMAL				       /* 1 to 5 */
		"hooks:\n"						       /* 6 */
		"  a: {type: plugin, file: a.so, deadline: 2h,\n"	       /* 7, two of them */
		"    on-failure: maybe, reply: 550 no, colour: red,\n"	       /* 8, three */
		"    options: {a: , b c: [], d: 1}}\n"			       /* 9, three */
		"  b: {type: rules, file: /b.so, options: {}}\n"	       /* 10, two */
		"  c: {type: plugin}\n"					       /* 11 */
		"  d: {type: rules, reject-ehlo: a@b}\n"		       /* 12 */
		"  e: {type: policy, events: [rcpt, auth, rctp], queue: 2m}\n" /* 13, four */
		"  f: {type: milter, endpoint: localhost:1, mode: all,\n"      /* 14, two */
		"    file: /f, quarantine: no, spill: 5}\n"		       /* 15, three */
		"  g: {type: lua, budget: 10, memory: 1, endpoint: 5}\n";      /* 16, four */
	static const char *const places[] = {"7:27", "7:43", "8:17", "8:24", "8:39", "9:18", "9:20",
		"9:25", "10:20", "10:33", "11:3", "12:33", "13:3", "13:36", "13:42", "13:56",
		"14:31", "14:50", "15:5", "15:27", "15:31", "16:3", "16:26", "16:38", "16:41"};
	struct outcome o = load(text);
	const char *p = o.said;

	cr_assert_null(o.c);
	cr_assert_not_null(strstr(o.said, "\n25 errors\n"), "%s", o.said);
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		char head[64];

		snprintf(head, sizeof(head), "t.yaml:%s: error: ", places[i]);
		p = strstr(p, "t.yaml:");
		cr_assert_not_null(p);
		cr_assert(strncmp(p, head, strlen(head)) == 0, "message %zu:\n%s", i, p);
		p++;
	}
	done(&o);
}

Test(conf, an_alias_is_wrong_once)
{
	struct outcome o =
		load("listeners:\n  a: {bind: 127.0.0.1:25, upstream: mta, limits: &l {junk: x}}\n"
		     "  b: {bind: 127.0.0.1:26, upstream: mta, limits: *l}\n" UPS);

	cr_assert_eq(count_of(o.said, ": error: "), 1u, "%s", o.said);
	cr_assert_not_null(strstr(o.said, "\n1 error\n"));
	done(&o);
}

Test(conf, terminals_are_safe_from_values)
{
	struct outcome o = load(TOP("log: {level: \"\\e[31mred\\u202e\"}\nuser: \x7f"));

	for (const char *p = o.said; *p != 0; p++)
		cr_assert((*p >= 0x20 && *p < 0x7f) || *p == '\n', "octet %02x", (unsigned char)*p);
	done(&o);
	o = load(TOP("log: {level: \"\\e[31mred\\u202e\"}"));
	cr_assert_not_null(strstr(o.said, "cannot be `?[31mred?`"), "%s", o.said);
	done(&o);
}

Test(conf, long_source_lines_are_cut_around_the_caret)
{
	char text[2048] = "log: {to: stderr,";
	struct outcome o;

	memset(text + strlen(text), ' ', 1000);
	snprintf(text + 1017, sizeof(text) - 1017, "level: x,%500s}\n" MINIMAL, "");
	o = load(text);
	cr_assert(strncmp(o.said, "t.yaml:1:1025: error: ", 22) == 0, "%s", o.said);
	char *line = strchr(o.said, '\n') + 1, *caret = strchr(line, '\n') + 1;
	cr_assert_lt(strcspn(line, "\n"), 130u);
	cr_assert_eq(line[strcspn(caret, "^")], 'x', "%s", o.said);
	done(&o);
}

Test(conf, message_flood_is_bounded_but_counted)
{
	char *text = calloc(1, 1 << 17);
	size_t at = (size_t)snprintf(text, 64, "listeners:\n  in: {hooks: [");
	struct outcome o;

	for (int i = 0; i < 60; i++)
		at += (size_t)sprintf(text + at, "h%d,", i);
	at += (size_t)sprintf(text + at, "]}\nupstreams: {m: {servers: [");
	for (int i = 0; i < 200; i++)
		at += (size_t)sprintf(text + at, "x%d,", i);
	at += (size_t)sprintf(text + at, "]}}\nhooks: {r: {type: rules, reject-senders: [");
	for (int i = 0; i < 3000; i++)
		at += (size_t)sprintf(text + at, "x%d,", i);
	sprintf(text + at, "]}}\n");
	o = load(text);
	cr_assert_eq(count_of(o.said, ": error: "), (unsigned)CONF_DIAGS_MAX);
	cr_assert_not_null(strstr(o.said, "\n3262 errors\n"));
	done(&o);
	free(text);
}

/* ---- what is accepted ---- */

static const char *const sane[] = {
	MINIMAL,
	"\xef\xbb\xbf" MINIMAL,
	"%YAML 1.1\n---\n" MINIMAL "...\n",
	"---\r\nlisteners: {in: {bind: 127.0.0.1:25, upstream: m}}\r\nupstreams: {m: {servers: "
	"10.0.0.1:25}}\r\n",
	"{\"listeners\": {\"in\": {\"bind\": \"127.0.0.1:25\", \"upstream\": \"m\"}}, "
	"\"upstreams\": "
	"{\"m\": {\"servers\": [\"10.0.0.1:25\"]}}}",
	TOP("workers: 1"),
	TOP("workers: 1024"),
	TOP("shutdown-grace: 0"),
	TOP("shutdown-grace: 1500ms\nlimits: {sessions: 200k, memory: 4g, accept-backlog: 128, "
	    "pressure: OFF}"),
	TOP("log: {to: \"file:/var/log/ringpost.log\", format: logfmt, level: debug}"),
	TOP("log:\nlimits:\nhooks:"),
	IN("timeouts:\n    limits:\n    hooks:\n    extensions:\n    starttls:"),
	IN("starttls: none"),
	IN("starttls: {mode: passthrough}"),
	IN("clients: any"),
	IN("clients: [10.0.0.0/8, \"2001:db8::/32\", 192.0.2.1, \"::ffff:192.0.2.0/120\"]"),
	IN("trusted: 10.0.0.5"),
	IN("extensions: {PIPELINING: strip, SIZE: pass, \"*\": strip, X-MINE: pass, XCLIENT: "
	   "strip}"),
	IN("bare-newlines: pass"),
	IN("limits: {per-client-rate: 5k/h, per-client-sessions: 0, message: 64k}"),
	BIND("[127.0.0.1:25, 127.0.0.2:25, \"[::1]:25\", \"unix:/run/x\", \"unix:@abstract\"]"),
	"listeners:\n  in: {bind: [\"0.0.0.0:25\", \"[::]:25\"], clients: any, upstream: "
	"mta}\n" UPS,
	SERVERS("[10.0.0.10:25, \"[2001:db8::10]:25\", \"unix:/run/mta\"]"),
	SERVERS("127.0.0.1:25"),
	BIND("[127.0.0.1:0, 127.0.0.1:0]"),
	UP("source: 10.0.0.1\n    mover: zero-copy\n    retry-down: 0\n    timeouts: {final-reply: "
	   "600s}"),
	HOOK("reject-senders: <>"),
	HOOK("reject-senders: [\"a@b.c\", \"@b.c\", \"@.b.c\", '\"a b\"@b.c', \"x@[192.0.2.1]\"]"),
	HOOK("reject-ehlo: [localhost, .dyn.example, \"[192.0.2.1]\"]\n    reply: 450 not now"),
	HOOK("reject-clients: any\n    reply: {code: 450, text: later}"),
	PLUGIN("file: /x.so"),
	PLUGIN("file: \"/usr/lib/gr\xc3\xbc\xc3\x9f $${x}/a \\\"b\\\".so\"\n    options:"),
	LOADED("deadline: 10ms\n    on-failure: accept"),
	LOADED("deadline: 1h\n    on-failure: reject\n    options: {}"),
	LOADED("mode: hold-all"),
	LUA("mode: stream\n    budget: 1k\n    memory: 1m\n    options: {a: b}"),
	LUA("budget: 1000m\n    memory: 4g\n    mode: hold-all\n    on-failure: accept"),
	POLICY("connections: 1\n    queue: 0\n    events: [end-of-data, data, rcpt, mail, ehlo, "
	       "connect]\n    context: \"\""),
	POLICY("events: end-of-data\n    context: '= \"'\n    idle-timeout: 1s\n    lifetime: 24h"),
	OTHER("policy", "endpoint: \"[::1]:10023\"", "connect-timeout: 100ms"),
	MILTER("connections: 100k\n    queue: 1m\n    daemon-name: \"a $${b} \\\"c\\\"\""),
	MILTER("mode: hold-all\n    quarantine: accept\n    content-deadline: 10ms"),
	TOP("hold:\nhelpers:"),
	TOP("workers: 4\nhold: {memory: 2m, disk: 1t, spill: 256k, message: 1g, directory: /x y}\n"
	    "helpers: {threads: 256, queue: 1}"),
	TOP("workers: 1\nhold: {disk: 0, spill: 64m, message: 64m}"),
	TOP("workers: 1\nhold: {disk: 48k, spill: 16k, message: 64k}"),
	KEPT("workers: 64"),
	KEPT("workers: 4\nhold: {memory: 2m, disk: 200m}"),
	TOP("workers: 1024\nhold: {memory: 2m, disk: 200m}"),
	LOADED("options: {a: '', B.c-d_9: \"on\", 1: yes, on: \"~\", a.b: '{}', A: \"#\\n\"}"),
	"listeners:\n  a: &l {bind: 127.0.0.1:25, upstream: &u mta}\n"
	"  b: {bind: 127.0.0.1:26, upstream: *u, timeouts: &t {command: 1m}}\n"
	"  c: {bind: 127.0.0.1:27, upstream: *u, timeouts: *t}\n" UPS,
};

Test(conf, accepts_sane_files_and_dumps_what_loads_again)
{
	cr_assert_geq(ARRAY_LEN(sane), 20u);
	for (size_t i = 0; i < ARRAY_LEN(sane); i++) {
		struct conf *c = load_good(sane[i]);
		char *one = dumped(c);
		struct conf *again = load_good(one);
		char *two = dumped(again);

		cr_assert_str_eq(one, two);
		conf_free(c);
		conf_free(again);
		free(one);
		free(two);
	}
}

Test(conf, defaults_are_those_of_the_header)
{
	struct conf *c = load_good(MINIMAL);
	const struct conf_listener *l = &c->listeners[0];
	const struct conf_upstream *u = &c->upstreams[0];
	cpu_set_t mask;

	cr_assert_eq(sched_getaffinity(0, sizeof(mask), &mask), 0);
	cr_assert_eq(c->cpu_count, (uint32_t)CPU_COUNT(&mask));
	for (uint32_t i = 0; i < c->cpu_count; i++)
		cr_assert(CPU_ISSET(c->cpus[i], &mask));
	cr_assert(c->pinned && c->user == NULL && c->log.path == NULL && c->limits.pressure);
	cr_assert(c->log.format == LOG_JSON && c->log.level == LOG_INFO);
	cr_assert(c->limits.sessions == 20000 && c->limits.memory == 1ull << 30);
	cr_assert(c->limits.accept_backlog == 4096 && c->shutdown_grace_ms == 30000);
	cr_assert(c->hold.memory == 256 << 20 && c->hold.disk == 4ull << 30);
	cr_assert(c->hold.spill == 256 << 10 && c->hold.message == 50 << 20);
	cr_assert_str_eq(c->hold.directory, "/var/tmp");
	cr_assert(c->helpers.threads == 8 && c->helpers.queue == 1000);
	cr_assert(c->listener_count == 1 && c->upstream_count == 1 && c->hook_count == 0);
	cr_assert_str_eq(l->name, "in");
	cr_assert(l->bind_count == 1 && addr_port(&l->bind[0]) == 2525 && l->hook_count == 0);
	cr_assert(l->starttls == STARTTLS_NONE && l->bare_newlines == SCAN_GUARD);
	cr_assert(l->upstream == u && l->index == 0 && u->index == 0 && l->trusted.count == 0);
	cr_assert(!l->clients.any && l->clients.count == 2);
	cr_assert(l->timeouts.command == 300000 && l->timeouts.data == 180000);
	cr_assert_eq(l->timeouts.send, 300000u);
	cr_assert(l->limits.per_client_sessions == 50 && l->limits.per_client_rate == 0);
	cr_assert(l->limits.rate_window_ms == 60000 && l->limits.recipients == 1000);
	cr_assert(l->limits.message == 0 && l->limits.errors == 20 && l->limits.soft_errors == 10);
	cr_assert(l->limits.error_delay_ms == 1000 && l->limits.junk == 100);
	cr_assert(l->limits.command_line == 4096 && l->limits.pipeline == 250);
	for (unsigned e = 0; e < EXT_COUNT; e++)
		cr_assert_eq(l->ehlo.policy[e], ext_default((enum smtp_ext)e));
	cr_assert(!l->ehlo.show_starttls && !l->ehlo.trusted && l->ehlo.size_max == 0);
	cr_assert(u->server_count == 1 && addr_port(&u->servers[0].addr) == 25);
	cr_assert_str_eq(u->servers[0].text, "10.0.0.10:25");
	cr_assert(u->timeouts.connect == 30000 && u->timeouts.greeting == 300000);
	cr_assert(u->timeouts.reply == 300000 && u->timeouts.data_init == 120000);
	cr_assert(u->timeouts.final_reply == 630000 && u->timeouts.send == 180000);
	cr_assert(u->retry_down_ms == 5000 && u->mover == MOVER_AUTO && u->source == NULL);
	conf_free(c);
}

static const char rich[] =
	"workers: 0-0\nshutdown-grace: 2h\nlimits: {sessions: 200k, memory: 4G, pressure: no}\n"
	"log: {to: \"file:/x y/$${z\\\"\", format: logfmt, level: error}\n"
	"listeners:\n"
	"  a: {bind: 127.0.0.1:1, upstream: two, hooks: [s, r], starttls: passthrough,\n"
	"    limits: {message: 50m, per-client-rate: 10/s}, bare-newlines: normalize,\n"
	"    extensions: {dsn: strip, X-One: strip, \"*\": strip, PIPELINING: pass}}\n"
	"  b: {bind: 127.0.0.1:2, upstream: one}\n"
	"upstreams:\n"
	"  one: {servers: [10.0.0.1:25, \"unix:/m\"], source: 10.0.0.9}\n"
	"  two: {servers: \"[2001:db8::1]:2525\", mover: ring-splice, timeouts: {send: 1s}}\n"
	"hooks:\n"
	"  r: {type: rules, reject-ehlo: [.Dyn.Example, HOST]}\n"
	"  s: {type: rules, reject-senders: [\"<>\", \"A.b@C.D\", \"@X.y\", \"@.Z.y\"],\n"
	"    reply: 451 try later}\n";

static void check_pattern(
	const struct conf_pattern *p, int kind, const char *local, const char *domain)
{
	cr_expect_eq((int)p->kind, kind);
	cr_expect(span_eq(p->local, span_str(local)));
	cr_expect(span_eq(p->domain, span_str(domain)), "%.*s", (int)p->domain.n,
		(const char *)p->domain.p);
}

Test(conf, values_arrive)
{
	struct conf *c = load_good(rich);
	const struct conf_listener *a = &c->listeners[0];
	const struct conf_upstream *one = &c->upstreams[0], *two = &c->upstreams[1];

	cr_assert(c->shutdown_grace_ms == 7200000 && c->limits.sessions == 200000);
	cr_assert(c->limits.memory == 4ull << 30 && !c->limits.pressure);
	cr_assert_str_eq(c->log.path, "/x y/${z\"");
	cr_assert(c->log.format == LOG_LOGFMT && c->log.level == LOG_ERROR);
	cr_assert(a->starttls == STARTTLS_PASSTHROUGH && a->ehlo.show_starttls);
	cr_assert(a->limits.message == 50 << 20 && a->ehlo.size_max == 50 << 20);
	cr_assert(a->limits.per_client_rate == 10 && a->limits.rate_window_ms == 1000);
	cr_assert(a->bare_newlines == SCAN_NORMALIZE && a->upstream == two && two->index == 1);
	cr_assert(c->listeners[1].index == 1 && c->listeners[1].upstream == one);
	cr_assert(a->ehlo.policy[EXT_DSN] == EXT_STRIP && a->ehlo.policy[EXT_OTHER] == EXT_STRIP);
	cr_assert(a->ehlo.policy[EXT_PIPELINING] == EXT_OWN &&
		  a->ehlo.policy[EXT_8BITMIME] == EXT_PASS);
	cr_assert(a->ehlo.named_count == 1 && a->ehlo.named[0].policy == EXT_STRIP);
	cr_assert(span_eq(a->ehlo.named[0].keyword, SPAN_LIT("X-One")));
	cr_assert(a->hook_count == 2 && a->hooks[0] == &c->hooks[1] && a->hooks[1] == &c->hooks[0]);
	cr_assert(one->server_count == 2 && one->servers[1].addr.sa.sa_family == AF_UNIX);
	cr_assert(one->source != NULL && addr_port(one->source) == 0);
	cr_assert_eq(one->source->len, sizeof(struct sockaddr_in));
	cr_assert(two->mover == MOVER_RING_SPLICE && two->timeouts.send == 1000);
	cr_assert_eq(two->timeouts.reply, 300000u);
	conf_free(c);
}

Test(conf, rules_arrive)
{
	struct conf *c = load_good(rich);
	const struct conf_rules *r = &c->hooks[0].rules, *s = &c->hooks[1].rules;

	cr_assert(r->ehlo_count == 2 && r->sender_count == 0 && !r->reject_null_sender);
	check_pattern(&r->ehlo[0], PAT_SUBDOMAINS, "", "dyn.example");
	check_pattern(&r->ehlo[1], PAT_EXACT, "", "host");
	cr_assert(r->reply.code == 550);
	cr_assert_str_eq(r->reply.enhanced, "5.7.1");
	cr_assert_str_eq(r->reply.text, "refused by policy");
	cr_assert(s->sender_count == 3 && s->reject_null_sender && s->recipient_count == 0);
	check_pattern(&s->senders[0], PAT_EXACT, "A.b", "c.d");
	check_pattern(&s->senders[1], PAT_DOMAIN, "", "x.y");
	check_pattern(&s->senders[2], PAT_SUBDOMAINS, "", "z.y");
	cr_assert(s->reply.code == 451);
	cr_assert_str_eq(s->reply.enhanced, "4.7.1");
	cr_assert_str_eq(s->reply.text, "try later");
	conf_free(c);
}

static const char plugged[] =
	"listeners:\n  in: {bind: 127.0.0.1:2525, upstream: mta, hooks: [one, two, r]}\n"
	"upstreams: {mta: {servers: 10.0.0.10:25}}\n"
	"hooks:\n"
	"  r: {type: rules, reject-ehlo: host}\n"
	"  one:\n"
	"    on-failure: reject\n"
	"    options:\n"
	"      path: /var/lib/x y\n"
	"      limit: 0x10\n"
	"      Strict: yes\n"
	"      strict: \"\"\n"
	"      rate-1.5_a: 1e3\n"
	"      null: null\n"
	"      text: |\n"
	"        two $${lines}\n"
	"        \"here\"\n"
	"    deadline: 1500ms\n"
	"    file: /usr/lib/ringpost/one.so\n"
	"    type: plugin\n"
	"  two: {type: plugin, file: /two}\n";

static void check_plugged(const struct conf *c)
{
	static const struct conf_option want[] = {{"path", "/var/lib/x y"}, {"limit", "0x10"},
		{"Strict", "yes"}, {"strict", ""}, {"rate-1.5_a", "1e3"}, {"null", "null"},
		{"text", "two ${lines}\n\"here\"\n"}};
	const struct conf_hook *r = &c->hooks[0], *one = &c->hooks[1], *two = &c->hooks[2];

	cr_assert(c->hook_count == 3 && c->listeners[0].hooks[0] == one);
	cr_assert(r->type == HOOK_RULES && one->type == HOOK_PLUGIN && two->type == HOOK_PLUGIN);
	cr_assert_str_eq(r->word, "rule:r");
	cr_assert_str_eq(r->rules.reply.word, "rule:r");
	cr_assert_str_eq(one->word, "hook:one");
	cr_assert_str_eq(one->file, "/usr/lib/ringpost/one.so");
	cr_assert(one->deadline_ms == 1500 && one->on_failure == HOOK_FAILS_REJECT);
	cr_assert_eq(one->option_count, ARRAY_LEN(want));
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		cr_expect_str_eq(one->options[i].name, want[i].name);
		cr_expect_str_eq(one->options[i].value, want[i].value);
	}
	/* defaults; rules have them, too, though nobody could set them */
	cr_assert_str_eq(two->word, "hook:two");
	cr_assert_str_eq(two->file, "/two");
	cr_assert(two->deadline_ms == 30000 && two->on_failure == HOOK_FAILS_TEMPFAIL);
	cr_assert(two->option_count == 0 && r->option_count == 0 && r->file == NULL);
	cr_assert(r->deadline_ms == 30000 && r->on_failure == HOOK_FAILS_TEMPFAIL);
}

Test(conf, plugins_arrive_and_survive_a_dump)
{
	struct conf *c = load_good(plugged), *again;
	char *one = dumped(c), *two;

	check_plugged(c);
	cr_assert_str_eq(c->hooks[0].where, "t.yaml:5:3");
	cr_assert_str_eq(c->hooks[1].where, "t.yaml:6:3");
	cr_assert_str_eq(c->hooks[2].where, "t.yaml:21:3");
	again = load_good(one);
	check_plugged(again);
	two = dumped(again);
	cr_assert_str_eq(one, two);
	/* Each type has its own keys in the dump, and no other. */
	cr_assert(count_of(one, "deadline:") == 2 && count_of(one, "    file:") == 2);
	cr_assert(count_of(one, "reject-senders:") == 1 && count_of(one, "reply:") == 3, "%s", one);
	free(one);
	free(two);
	conf_free(c);
	conf_free(again);
}

/* One of each new type with everything set, and one with nothing but what it needs. */
static const char asked[] =
	"listeners:\n  in: {bind: 127.0.0.1:2525, upstream: mta, hooks: [l, p, m, l0, p0, m0, r]}\n"
	"upstreams: {mta: {servers: 10.0.0.10:25}}\n"
	"workers: 1\n"
	"hold: {memory: 1g, disk: 2t, spill: 1m, message: 1g, directory: /srv/hold}\n"
	"helpers: {threads: 3, queue: 5}\n"
	"hooks:\n"
	"  l: {type: lua, file: /l, mode: hold-all, budget: 5k, memory: 2m, deadline: 1s,\n"
	"    on-failure: accept, options: {a: b}}\n"
	"  p: {type: policy, endpoint: 127.0.0.1:10023, connections: 3, queue: 0, deadline: 2s,\n"
	"    connect-timeout: 200ms, events: [connect, end-of-data], context: \"x = y\",\n"
	"    idle-timeout: 4s, lifetime: 5s, on-failure: reject}\n"
	"  m: {type: milter, endpoint: \"unix:/run/m\", connections: 7, queue: 8, mode: stream,\n"
	"    connect-timeout: 9s, deadline: 3s, content-deadline: 6s, quarantine: discard,\n"
	"    daemon-name: mx, on-failure: accept}\n"
	"  l0: {type: lua, file: /l0}\n"
	"  p0: {endpoint: \"[::1]:1\", type: policy}\n"
	"  m0: {endpoint: 127.0.0.1:2, type: milter}\n"
	"  r: {type: rules, reject-ehlo: host}\n";

static void check_asked_lua(const struct conf_hook *l, const struct conf_hook *l0)
{
	cr_assert(l->type == HOOK_LUA && l->mode == HOOK_HOLD_ALL && l->budget == 5000);
	cr_assert(l->memory_bytes == 2 << 20 && l->deadline_ms == 1000);
	cr_assert(l->on_failure == HOOK_FAILS_ACCEPT && l->option_count == 1);
	cr_assert_str_eq(l->file, "/l");
	cr_assert_str_eq(l->word, "hook:l");
	cr_assert(l0->type == HOOK_LUA && l0->mode == HOOK_HOLD_END && l0->budget == 1000000);
	cr_assert(l0->memory_bytes == 16 << 20 && l0->deadline_ms == 30000);
	cr_assert(l0->on_failure == HOOK_FAILS_TEMPFAIL && l0->option_count == 0);
	cr_assert(l->endpoint.text == NULL);
}

static void check_asked_policy(const struct conf_hook *p, const struct conf_hook *p0)
{
	cr_assert(p->type == HOOK_POLICY && p->connections == 3 && p->queue == 0);
	cr_assert_str_eq(p->endpoint.text, "127.0.0.1:10023");
	cr_assert(addr_port(&p->endpoint.addr) == 10023 && p->connect_ms == 200);
	cr_assert_eq(p->events, 1u << CONF_CONNECT | 1u << CONF_END_OF_DATA);
	cr_assert(p->mode == HOOK_HOLD_END && p->idle_ms == 4000 && p->ttl_ms == 5000);
	cr_assert(p->deadline_ms == 2000 && p->on_failure == HOOK_FAILS_REJECT);
	cr_assert_str_eq(p->policy_context, "x = y");
	cr_assert(p0->type == HOOK_POLICY && p0->connections == 20 && p0->queue == 1000);
	cr_assert_str_eq(p0->endpoint.text, "[::1]:1");
	cr_assert(p0->connect_ms == 10000 && p0->events == 1u << CONF_RCPT);
	cr_assert(p0->mode == HOOK_STREAM && p0->idle_ms == 300000 && p0->ttl_ms == 1000000);
	cr_assert(p0->deadline_ms == 30000 && p0->on_failure == HOOK_FAILS_TEMPFAIL);
	cr_assert_str_eq(p0->policy_context, "");
}

static void check_asked_milter(const struct conf_hook *m, const struct conf_hook *m0)
{
	cr_assert(m->type == HOOK_MILTER && m->connections == 7 && m->queue == 8);
	cr_assert_str_eq(m->endpoint.text, "unix:/run/m");
	cr_assert(m->endpoint.addr.sa.sa_family == AF_UNIX && m->connect_ms == 9000);
	cr_assert(m->mode == HOOK_STREAM && m->quarantine == QUARANTINE_DISCARD);
	cr_assert(m->deadline_ms == 3000 && m->content_deadline_ms == 6000);
	cr_assert(m->on_failure == HOOK_FAILS_ACCEPT);
	cr_assert_str_eq(m->daemon_name, "mx");
	cr_assert(m0->type == HOOK_MILTER && m0->connections == 500 && m0->queue == 1000);
	cr_assert(m0->connect_ms == 10000 && m0->mode == HOOK_HOLD_END);
	cr_assert(m0->quarantine == QUARANTINE_REJECT && m0->daemon_name == NULL);
	cr_assert(m0->deadline_ms == 30000 && m0->content_deadline_ms == 300000);
	cr_assert_eq(m0->on_failure, HOOK_FAILS_TEMPFAIL);
}

static void check_asked(const struct conf *c)
{
	cr_assert(c->hook_count == 7 && c->hooks[6].mode == HOOK_STREAM);
	check_asked_lua(&c->hooks[0], &c->hooks[3]);
	check_asked_policy(&c->hooks[1], &c->hooks[4]);
	check_asked_milter(&c->hooks[2], &c->hooks[5]);
	cr_assert(c->hold.memory == 1 << 30 && c->hold.disk == 2ull << 40);
	cr_assert(c->hold.spill == 1 << 20 && c->hold.message == 1 << 30);
	cr_assert_str_eq(c->hold.directory, "/srv/hold");
	cr_assert(c->helpers.threads == 3 && c->helpers.queue == 5);
}

Test(conf, scripts_and_servers_arrive_and_survive_a_dump)
{
	struct conf *c = load_good(asked), *again;
	char *one = dumped(c), *two;

	check_asked(c);
	again = load_good(one);
	check_asked(again);
	two = dumped(again);
	cr_assert_str_eq(one, two);
	/* Two are the upstream's, one the listener's. */
	cr_assert(count_of(one, "    mode: ") == 4 + 3, "%s", one);
	cr_assert(count_of(one, "daemon-name:") == 1 && count_of(one, "endpoint:") == 4);
	cr_assert_not_null(
		strstr(one, "\n    events: [\"connect\", \"end-of-data\"]\n"), "%s", one);
	cr_assert_not_null(
		strstr(one, "\nhold:\n  memory: 1g\n  disk: 2t\n  spill: 1m\n"), "%s", one);
	free(one);
	free(two);
	conf_free(c);
	conf_free(again);
}

Test(conf, every_event_has_its_bit)
{
	static const struct {
		const char *word;
		unsigned bit;
	} rows[] = {{"connect", CONF_CONNECT}, {"ehlo", CONF_EHLO}, {"mail", CONF_MAIL},
		{"rcpt", CONF_RCPT}, {"data", CONF_DATA}, {"end-of-data", CONF_END_OF_DATA}};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char text[512];
		struct conf *c;

		snprintf(text, sizeof(text), POLICY("events: %s"), rows[i].word);
		c = load_good(text);
		cr_expect_eq(c->hooks[0].events, 1u << rows[i].bit, "%s", rows[i].word);
		cr_expect_eq(c->hooks[0].mode,
			rows[i].bit == CONF_END_OF_DATA ? HOOK_HOLD_END : HOOK_STREAM);
		conf_free(c);
	}
}

Test(conf, a_hook_is_where_its_name_is)
{
	struct conf *c =
		load_good("listeners: {in: {bind: 127.0.0.1:25, upstream: mta, "
			  "hooks: [a, b]}}\n" UPS
			  "hooks:\n  a: &a\n    type: plugin\n    file: /x\n  \"b\": *a\n");

	cr_assert_str_eq(c->hooks[0].where, "t.yaml:6:3");
	cr_assert_str_eq(c->hooks[1].where, "t.yaml:9:3");
	cr_assert_str_eq(c->hooks[1].word, "hook:b");
	conf_free(c);
}

/* Every octet that a string can hold, and what is hard to write in YAML. */
Test(conf, options_hold_any_text_and_the_dump_shows_none_of_it_raw)
{
	static const char hard[] =
		"\xc2\x80\xc2\x85\xc2\xa0\xe2\x80\xa8\xe2\x80\xae\xe2\x81\xa6"
		"\xef\xbb\xbf\xef\xbf\xbd\xef\xbf\xbe\xef\xbf\xbf\xf0\x9f\x98\x80"
		"\xf4\x8f\xbf\xbf $ $$ ${ $${ ${env:HOME} \\u0041 ";
	char text[127 + sizeof(hard)];
	struct conf *c, *again;
	char *one, *rest, *line;

	for (int i = 0; i < 127; i++)
		text[i] = (char)(i + 1);
	memcpy(text + 127, hard, sizeof(hard));
	setenv("CONF_TEST_OCTETS", text, 1);
	c = load_good(LOADED("options: {a: \"${env:CONF_TEST_OCTETS}\"}"));
	cr_assert_str_eq(c->hooks[0].options[0].value, text);
	one = dumped(c);
	again = load_good(one);
	cr_assert_str_eq(again->hooks[0].options[0].value, text);
	rest = one;
	while ((line = strsep(&rest, "\n")) != NULL)
		cr_expect(text_clean(span_str(line)), "%s", line);
	free(one);
	conf_free(c);
	conf_free(again);
}

Test(conf, what_is_brought_in_must_be_utf8)
{
	static const char *const broken[] = {"\xff", "\xc3", "\xc0\x80", "\xe0\x80\x80",
		"\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xe2\x82"};

	for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
		struct outcome o;

		setenv("CONF_TEST_OCTETS", broken[i], 1);
		o = load(LOADED("options: {a: \"${env:CONF_TEST_OCTETS}\"}"));
		cr_expect(strncmp(o.said, "t.yaml:8:18: error: option `a` is not UTF-8", 43) == 0,
			"%zu: %s", i, o.said);
		done(&o);
		o = load(PLUGIN("file: \"/${env:CONF_TEST_OCTETS}\""));
		cr_expect(strncmp(o.said, "t.yaml:7:11: error: `file` must be UTF-8", 40) == 0,
			"%zu: %s", i, o.said);
		done(&o);
	}
}

/* `n` octets after `head`, then `tail`; the caller frees. */
static char *padded(const char *head, size_t n, const char *tail)
{
	char *text = malloc(strlen(head) + n + strlen(tail) + 1);

	strcpy(text, head);
	memset(text + strlen(head), 'x', n);
	strcpy(text + strlen(head) + n, tail);
	return text;
}

#define PLUGIN_HEAD MINIMAL "hooks:\n  p:\n    type: plugin\n    file: /" /* line 9 */

static void check_padded(char *text, const char *error)
{
	struct outcome o = load(text);

	cr_expect((o.c != NULL) == (error == NULL), "%s", o.said);
	if (error != NULL)
		cr_expect(strncmp(o.said, error, strlen(error)) == 0, "%s", o.said);
	done(&o);
	free(text);
}

Test(conf, plugins_are_bounded)
{
	char *text = calloc(1, 1 << 12);

	check_padded(padded(PLUGIN_HEAD, 4094, "\n"), NULL);
	check_padded(padded(PLUGIN_HEAD, 4095, "\n"),
		"t.yaml:9:11: error: `file` has 4096 octets, 4095 at most are allowed");
	check_padded(padded(PLUGIN_HEAD "x\n    options: {a: ", 4096, "}\n"), NULL);
	check_padded(padded(PLUGIN_HEAD "x\n    options: {a: ", 4097, "}\n"),
		"t.yaml:10:18: error: option `a` has 4097 octets, 4096 at most are allowed");
	check_padded(padded(PLUGIN_HEAD "x\n    options: {", 64, ": 1}\n"), NULL);
	check_padded(padded(PLUGIN_HEAD "x\n    options: {", 65, ": 1}\n"),
		"t.yaml:10:15: error: an option cannot be called `xxx");
	for (int count = 64; count <= 65; count++) {
		size_t at = (size_t)sprintf(text, PLUGIN_HEAD "x\n    options: {");

		for (int i = 0; i < count; i++)
			at += (size_t)sprintf(text + at, "o%d: %d, ", i, i);
		sprintf(text + at, "}\n");
		check_padded(strdup(text),
			count == 64 ? NULL
				    : "t.yaml:10:14: error: `options` has 65 entries, 64 at most");
	}
	free(text);
}

#define POLICY_HEAD MINIMAL "hooks:\n  p:\n    type: policy\n    endpoint: 127.0.0.1:1\n"
#define MILTER_HEAD MINIMAL "hooks:\n  p:\n    type: milter\n    endpoint: 127.0.0.1:1\n"

Test(conf, texts_for_servers_are_bounded)
{
	check_padded(padded(POLICY_HEAD "    context: ", 1024, "\n"), NULL);
	check_padded(padded(POLICY_HEAD "    context: ", 1025, "\n"),
		"t.yaml:10:14: error: `context` has 1025 octets, 1024 at most are allowed");
	check_padded(padded(MILTER_HEAD "    daemon-name: ", 255, "\n"), NULL);
	check_padded(padded(MILTER_HEAD "    daemon-name: ", 256, "\n"),
		"t.yaml:10:18: error: `daemon-name` has 256 octets, 255 at most are allowed");
	check_padded(padded("hold: {directory: /", 4094, "}\n" MINIMAL), NULL);
	check_padded(padded("hold: {directory: /", 4095, "}\n" MINIMAL),
		"t.yaml:1:19: error: `directory` has 4096 octets, 4095 at most are allowed");
}

Test(conf, cpu_lists)
{
	struct outcome o = load(TOP("workers: 0-7,^3, 9,8-10,^0-1"));
	static const uint16_t want[] = {2, 4, 5, 6, 7, 8, 9, 10};

	/* A warning where the machine has fewer. */
	cr_assert_not_null(o.c, "%s", o.said);
	cr_assert_eq(o.c->cpu_count, ARRAY_LEN(want));
	cr_assert_arr_eq(o.c->cpus, want, sizeof(want));
	cr_assert(o.c->pinned);
	done(&o);
	o = load(TOP("workers: 3"));
	cr_assert(o.c->cpu_count == 3 && !o.c->pinned);
	done(&o);
	o = load(TOP("workers: 0-0"));
	cr_assert(o.c->cpu_count == 1 && o.c->pinned && o.c->cpus[0] == 0);
	done(&o);
}

/* A wildcard listener is reached by every address of the host, not by loopback alone. */
Test(conf, own_address_behind_a_wildcard_is_a_loop)
{
	char text[300], host[INET_ADDRSTRLEN] = "127.0.0.1";
	struct ifaddrs *all;
	struct outcome o;

	cr_assert_eq(getifaddrs(&all), 0);
	for (struct ifaddrs *i = all; i != NULL; i = i->ifa_next)
		if (i->ifa_addr != NULL && i->ifa_addr->sa_family == AF_INET)
			inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr,
				host, sizeof(host));
	freeifaddrs(all);
	snprintf(text, sizeof(text),
		"listeners: {in: {bind: 0.0.0.0:25, clients: any, upstream: mta}}\n"
		"upstreams: {mta: {servers: %s:25}}\n",
		host);
	o = load(text);
	cr_assert_null(o.c);
	cr_assert_not_null(strstr(o.said, "t.yaml:2:28: error: "), "%s", o.said);
	cr_assert_not_null(strstr(o.said, "mail would go round in a circle"), "%s", o.said);
	done(&o);
}

/* ---- warnings ---- */

static const struct bad warnings[] = {
	{MINIMAL "  spare: {servers: 10.0.0.11:25}\n", "6:3", "no listener uses upstream `spare`"},
	{MINIMAL "hooks:\n  r: {type: rules, reject-ehlo: x}\n", "7:3",
		"no listener uses hook `r`"},
	{HOOK("reply: 550 no"), "5:3", "hook `r` refuses nothing"},
	{MINIMAL "hooks:\n  p: {type: plugin, file: /x}\n", "7:3", "no listener uses hook `p`"},
	{IN("limits: {message: 65535}"), "5:23", "RFC 5321 4.5.3.1.7"},
	{TOP("workers: 1023-1023"), "1:10", "may not run on CPU 1023"},
	{"listeners:\n  in: {bind: 127.0.0.1:2525, upstream: mta, hooks: k,\n"
	 "    limits: {message: 51m}}\n" UPS "hooks: {k: {type: lua, file: /k, mode: hold-all}}\n",
		"3:23",
		"messages above 50m are refused all the same: hook `k` has them kept, and that is "
		"the `message` of `hold`"},
	{MINIMAL "hooks:\n  p: {type: policy, endpoint: \"unix:/p\"}\n", "7:3",
		"no listener uses hook `p`"},
};

Test(conf, warns_and_loads)
{
	for (size_t i = 0; i < ARRAY_LEN(warnings); i++) {
		struct outcome o = load(warnings[i].text);
		char head[64];

		snprintf(head, sizeof(head), "t.yaml:%s: warning: ", warnings[i].place);
		cr_expect_not_null(o.c, "%s", o.said);
		cr_expect(strncmp(o.said, head, strlen(head)) == 0, "%s", o.said);
		cr_expect_not_null(strstr(o.said, warnings[i].words), "%s", o.said);
		cr_expect_not_null(strstr(o.said, "\n1 warning\n"), "%s", o.said);
		done(&o);
	}
}

/* ---- networks ---- */

static struct ring_addr addr(const char *text)
{
	struct ring_addr a;

	cr_assert(addr_parse(span_str(text), &a), "%s", text);
	return a;
}

Test(conf, networks_match)
{
	static const struct {
		const char *nets, *peer;
		bool in;
	} rows[] = {
		{"any", "192.0.2.1:1", true},
		{"10.0.0.0/8", "10.255.0.1:1", true},
		{"10.0.0.0/8", "11.0.0.1:1", false},
		{"10.0.0.0/8", "[::ffff:10.1.2.3]:1", true},
		{"\"::ffff:10.0.0.0/104\"", "10.1.2.3:1", true},
		{"10.0.0.0/8", "[a00::]:1", false},
		{"192.0.2.128/25", "192.0.2.127:1", false},
		{"192.0.2.128/25", "192.0.2.128:1", true},
		{"192.0.2.1", "192.0.2.1:1", true},
		{"192.0.2.1", "192.0.2.0:1", false},
		{"\"2001:db8::/33\"", "[2001:db8:7fff::1]:1", true},
		{"\"2001:db8::/33\"", "[2001:db8:8000::1]:1", false},
		{"\"2001:db8::1\"", "[2001:db8::1]:1", true},
		{"127.0.0.0/8", "unix:/x", true},
		{"10.0.0.0/8", "unix:/x", false},
		{"[192.0.2.0/24, \"::1\"]", "[::1]:1", true},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char text[256];
		struct ring_addr a = addr(rows[i].peer);
		struct conf *c;

		snprintf(
			text, sizeof(text), BIND("198.51.100.1:25\n    clients: %s"), rows[i].nets);
		c = load_good(text);
		cr_expect_eq(conf_nets_match(&c->listeners[0].clients, &a), rows[i].in, "%s in %s",
			rows[i].peer, rows[i].nets);
		conf_free(c);
	}
}

Test(conf, loopback_listener_has_loopback_clients)
{
	struct conf *c = load_good(MINIMAL);
	struct ring_addr near4 = addr("127.9.9.9:1"), near6 = addr("[::1]:1"),
			 far = addr("10.0.0.1:1");

	cr_assert(conf_nets_match(&c->listeners[0].clients, &near4));
	cr_assert(conf_nets_match(&c->listeners[0].clients, &near6));
	cr_assert_not(conf_nets_match(&c->listeners[0].clients, &far));
	cr_assert_not(conf_nets_match(&c->listeners[0].trusted, &near4));
	conf_free(c);
	/* A list that is there is obeyed. */
	c = load_good(IN("clients: 127.9.9.9/32"));
	cr_assert(conf_nets_match(&c->listeners[0].clients, &near4));
	cr_assert_not(conf_nets_match(&c->listeners[0].clients, &near6));
	cr_assert_not(conf_nets_match(&c->listeners[0].clients, &far));
	conf_free(c);
	c = load_good("listeners: {in: {bind: [127.0.0.1:25, 10.0.0.1:25], clients: 10.0.0.0/8, "
		      "upstream: mta}}\n" UPS);
	cr_assert(conf_nets_match(&c->listeners[0].clients, &far));
	cr_assert_not(conf_nets_match(&c->listeners[0].clients, &near4));
	conf_free(c);
}

/* ---- expansion ---- */

Test(conf, expansion)
{
	char path[] = "/tmp/test_conf_XXXXXX", text[512];
	int fd = mkstemp(path);
	struct conf *c;

	cr_assert_geq(fd, 0);
	cr_assert_gt(dprintf(fd, "550 5.7.1 ${env:HOME} kept\r\n\n"), 0);
	close(fd);
	setenv("CONF_TEST_PORT", "2600", 1);
	setenv("CONF_TEST_EMPTY", "", 1);
	snprintf(text, sizeof(text),
		"listeners:\n  in: {bind: \"127.0.0.1:${env:CONF_TEST_PORT}\", hooks: r,\n"
		"    upstream: "
		"\"${env:CONF_TEST_NOWHERE:-m}${env:CONF_TEST_EMPTY:-t}${env:CONF_TEST_EMPTY}a\"}"
		"\n" UPS "hooks: {r: {type: rules, reject-ehlo: x, reply: '${file:%s}'}}\n",
		path);
	c = load_good(text);
	cr_assert_eq(addr_port(&c->listeners[0].bind[0]), 2600);
	cr_assert_str_eq(c->listeners[0].upstream->name, "mta");
	/* What a file brought in is not expanded again. */
	cr_assert_str_eq(c->hooks[0].rules.reply.text, "${env:HOME} kept");
	conf_free(c);
	unlink(path);
	c = load_good(HOOK("reject-ehlo: x\n    reply: 550 a $${b} $c $$d"));
	cr_assert_str_eq(c->hooks[0].rules.reply.text, "a ${b} $c $$d");
	conf_free(c);
}

Test(conf, expanded_secrets_stay_out_of_messages)
{
	struct outcome o;

	setenv("CONF_TEST_SECRET", "hunter2", 1);
	o = load(TOP("shutdown-grace: ${env:CONF_TEST_SECRET}"));
	cr_assert_null(o.c);
	cr_assert_null(strstr(o.said, "hunter2"), "%s", o.said);
	cr_assert_not_null(strstr(o.said, "`${env:CONF_TEST_SECRET}`"));
	done(&o);
	setenv("CONF_TEST_SECRET", "\xff\xfe", 1);
	o = load(HOOK("reject-senders: a${env:CONF_TEST_SECRET}@b.c"));
	cr_assert_null(o.c);
	done(&o);
}

/* ---- bounds ---- */

Test(conf, a_billion_laughs_are_not_funny)
{
	char text[4096];
	size_t at = (size_t)sprintf(text, "hooks:\n  a: &a [x, x, x, x, x, x, x, x, x, x]\n");
	struct outcome o;

	for (char c = 'b'; c < 'm'; c++)
		at += (size_t)sprintf(text + at,
			"  %c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n", c, c, c - 1,
			c - 1, c - 1, c - 1, c - 1, c - 1, c - 1, c - 1, c - 1);
	o = load(text);
	cr_assert_null(o.c);
	cr_assert_not_null(strstr(o.said, "too many values"), "%s", o.said);
	done(&o);
}

Test(conf, size_is_bounded)
{
	size_t n = CONF_FILE_BYTES_MAX + 1;
	char *text = malloc(n);
	struct outcome o;

	memset(text, '\n', n);
	memcpy(text, MINIMAL, strlen(MINIMAL));
	o = load_bytes(text, n);
	cr_assert_null(o.c);
	cr_assert_str_eq(o.said, "t.yaml: error: larger than 1 MiB\n1 error\n");
	done(&o);
	o = load_bytes(text, n - 1);
	cr_assert_not_null(o.c, "%s", o.said);
	done(&o);
	free(text);
}

Test(conf, keys_and_anchors_are_bounded)
{
	char *text = calloc(1, 1 << 17);
	size_t at = 0;
	struct outcome o;

	for (int i = 0; i <= CONF_MAP_KEYS_MAX; i++)
		at += (size_t)sprintf(text + at, "k%d: 1\n", i);
	o = load(text);
	cr_assert_not_null(strstr(o.said, "too many keys in one mapping"), "%s", o.said);
	done(&o);
	at = (size_t)sprintf(text, "hooks: [");
	for (int i = 0; i <= CONF_ANCHORS_MAX; i++)
		at += (size_t)sprintf(text + at, "&a%d x, ", i);
	o = load(text);
	cr_assert_not_null(strstr(o.said, "too many anchors"), "%s", o.said);
	done(&o);
	free(text);
}

/* ---- files ---- */

static struct outcome load_path(const char *path)
{
	struct outcome o = {0};
	FILE *err = open_memstream(&o.said, &o.said_len);

	o.c = conf_load(path, err);
	fclose(err);
	return o;
}

Test(conf, files)
{
	char path[] = "/tmp/test_conf_XXXXXX", want[256];
	int fd = mkstemp(path);
	struct outcome o;

	cr_assert_eq(write(fd, MINIMAL, strlen(MINIMAL)), (ssize_t)strlen(MINIMAL));
	o = load_path(path);
	cr_assert_not_null(o.c, "%s", o.said);
	done(&o);
	cr_assert_gt(dprintf(fd, "hooks: {p: {type: plugin, file: /x}}\n"), 0);
	o = load_path(path);
	cr_assert_not_null(o.c, "%s", o.said);
	snprintf(want, sizeof(want), "%s:6:9", path);
	cr_assert_str_eq(o.c->hooks[0].where, want);
	done(&o);
	fchmod(fd, 0646);
	o = load_path(path);
	cr_assert_null(o.c);
	snprintf(want, sizeof(want), "%s: error: anybody could change it", path);
	cr_assert(strncmp(o.said, want, strlen(want)) == 0, "%s", o.said);
	done(&o);
	fchmod(fd, 0664);
	o = load_path(path);
	cr_assert_null(o.c);
	cr_assert_not_null(strstr(o.said, "its whole group could change it"), "%s", o.said);
	done(&o);
	close(fd);
	unlink(path);
	o = load_path(path);
	snprintf(want, sizeof(want), "%s: error: No such file or directory\n1 error\n", path);
	cr_assert_str_eq(o.said, want);
	done(&o);
	o = load_path("/");
	cr_assert_str_eq(o.said, "/: error: Is a directory\n1 error\n");
	done(&o);
}

Test(conf, standard_input)
{
	int p[2];
	struct outcome o;

	cr_assert_eq(pipe(p), 0);
	cr_assert_eq(write(p[1], "user:\n", 6), 6);
	close(p[1]);
	cr_assert_eq(dup2(p[0], STDIN_FILENO), STDIN_FILENO);
	o = load_path("-");
	cr_assert(strncmp(o.said, "<stdin>: error: `listeners` is missing", 38) == 0, "%s", o.said);
	done(&o);
}

/* ---- documents ---- */

Test(conf, reference_is_the_committed_one)
{
	char *want = read_text(in_tree("docs/CONFIGURATION.md")), *got = NULL;
	size_t n = 0;
	FILE *out = open_memstream(&got, &n);

	conf_reference(out);
	fclose(out);
	cr_assert(strcmp(got, want) == 0,
		"docs/CONFIGURATION.md is not what conf_reference() writes");
	for (size_t i = 0; i < conf_key_count; i++)
		cr_assert_not_null(strstr(got, conf_keys[i].name));
	free(want);
	free(got);
}

Test(conf, examples_load)
{
	glob_t files;
	char pattern[300];

	unsetenv("RINGPOST_USER");
	snprintf(pattern, sizeof(pattern), "%s/*.yaml", in_tree("docs/examples"));
	cr_assert_eq(glob(pattern, 0, NULL, &files), 0);
	cr_assert_geq(files.gl_pathc, 4u);
	for (size_t i = 0; i < files.gl_pathc; i++) {
		/* Not by conf_load(): a checkout may be writable by its group. */
		char *text = read_text(files.gl_pathv[i]), *one;
		struct conf *c = load_good(text), *again;

		one = dumped(c);
		again = load_good(one);
		if (strstr(files.gl_pathv[i], "minimal") != NULL)
			cr_assert_eq(count_of(text, "\n"), 4u);
		conf_free(again);
		conf_free(c);
		free(one);
		free(text);
	}
	globfree(&files);
}

/* Every key of the table, but those without a default, stands in the large example. */
Test(conf, large_example_names_every_key)
{
	char *text = read_text(in_tree("docs/examples/full.yaml")), key[64];

	for (size_t i = 0; i < conf_key_count; i++) {
		if (conf_keys[i].type == TYPE_LATER)
			continue;
		snprintf(key, sizeof(key), "%s:", conf_keys[i].name);
		cr_expect_not_null(strstr(text, key), "%s", conf_keys[i].name);
	}
	free(text);
}

/* Is there a key of this name without a default, or with this one? */
static bool as_by_default(const char *name, const char *value)
{
	bool known = false;

	for (size_t i = 0; i < conf_key_count; i++) {
		const struct key *k = &conf_keys[i];

		if (strcmp(k->name, name) != 0 || k->def == NULL || k->def == conf_required)
			continue;
		known = true;
		if (strcmp(k->def, value) == 0)
			return true;
	}
	return !known;
}

/* ... with its default, unless a comment in parentheses says otherwise. */
Test(conf, large_example_has_the_defaults)
{
	char *text = read_text(in_tree("docs/examples/full.yaml")), *rest = text, *line;

	while ((line = strsep(&rest, "\n")) != NULL) {
		char name[64], value[64];

		if (strstr(line, "# (") == NULL &&
			sscanf(line, " %63[a-z-]: %63[^#\n]", name, value) == 2) {
			value[strcspn(value, " ")] = 0;
			cr_expect(strchr(line, '{') != NULL || strcmp(name, "text") == 0 ||
					  as_by_default(name, value),
				"%s", line);
		}
	}
	free(text);
}

/* ---- the table itself ---- */

Test(conf, schema_rows_are_sound)
{
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct key *k = &conf_keys[i];

		cr_expect_eq(key_find(k->scope, k->name), k, "%s is there twice", k->name);
		cr_expect(k->min <= k->max || k->max == 0, "%s", k->name);
		cr_expect(k->text[0] != 0 && strchr(k->text, '|') == NULL, "%s", k->name);
		cr_expect(k->type != TYPE_WORD || k->words != NULL, "%s", k->name);
	}
	for (int m = 0; m < MOVER_COUNT; m++) {
		const struct word *w = key_find(SCOPE_UPSTREAM, "mover")->words;

		while (w->word != NULL && w->value != m)
			w++;
		cr_expect_not_null(w->word, "mover %d has no word", m);
	}
}

/* Every word of a gate that this version knows has its keys, or none of them has. */
Test(conf, gates_and_what_they_let_in)
{
	for (unsigned s = 0; s < SCOPE_COUNT; s++) {
		const struct scope_row *row = &conf_scopes[s];
		const struct key *gate;
		unsigned adds = 0, words = 0;

		for (unsigned m = 0; m < SCOPE_COUNT; m++)
			adds += scope_adds((enum scope)m, (enum scope)s);
		cr_expect((row->when == NULL) == (row->which == NULL), "%s", row->path);
		if (row->gate == NULL) {
			cr_expect_eq(adds, 0u, "%s", row->path);
			continue;
		}
		gate = key_find((enum scope)s, row->gate);
		cr_assert_not_null(gate, "%s", row->path);
		for (const struct word *w = gate->words; w->word != NULL; w++)
			words += w->later == NULL;
		cr_expect(adds == 0 || adds == words, "%s", row->path);
		for (size_t i = 0; i < conf_key_count; i++)
			if (scope_adds(conf_keys[i].scope, (enum scope)s))
				cr_expect_null(key_find((enum scope)s, conf_keys[i].name), "%s",
					conf_keys[i].name);
	}
}

Test(conf, edit_distance)
{
	static const struct {
		const char *a, *b;
		unsigned d;
	} rows[] = {{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1},
		{"ab", "abc", 1}, {"kitten", "sitting", 3}, {"time_outs", "TIMEOUTS", 1},
		{"a_b", "a-b", 0}};
	static const char *const words[] = {"bind", "limits", "timeouts"};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		cr_expect_eq(edit_distance(rows[i].a, rows[i].b), rows[i].d);
		cr_expect_eq(edit_distance(rows[i].b, rows[i].a), rows[i].d);
	}
	cr_expect_str_eq(suggest("bnid", words, 3), "bind");
	cr_expect_str_eq(suggest("limit", words, 3), "limits");
	cr_expect_null(suggest("metrics", words, 3));
	cr_expect_null(suggest("", words, 3));
}

/* ---- broken files ---- */

static uint32_t next(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

/* Whatever happens to a good file, it is accepted or refused with a reason; and what is accepted
 * can be dumped and loaded again. */
static void mutate_and_load(const char *good, uint32_t seed)
{
	static const char bits[] = ":,[]{}&*!|>'\"%@`#-? \n\t\r$~<0123456789ab\xc3\xff\x01";
	size_t n = strlen(good), hits = 1 + next(&seed) % 6;
	char *text = malloc(n + 64);
	struct outcome o;

	memcpy(text, good, n);
	for (size_t i = 0; i < hits; i++) {
		size_t at = next(&seed) % n, most = next(&seed) % 12, len = MIN_OF(most, n - at);
		size_t to = next(&seed) % (n - len);

		switch (next(&seed) % 3) {
		case 0:
			text[at] = bits[next(&seed) % (sizeof(bits) - 1)];
			break;
		case 1:
			memmove(text + to, text + at, len);
			break;
		default:
			memmove(text + at, text + at + len, n - at - len);
			n -= n > 100 ? len : 0;
		}
	}
	o = load_bytes(text, n);
	cr_assert(o.c != NULL || strstr(o.said, "error") != NULL);
	if (o.c != NULL) {
		char *one = dumped(o.c);
		struct outcome again = load(one);

		cr_assert_not_null(again.c, "dump refused:\n%s%s", one, again.said);
		done(&again);
		free(one);
	}
	done(&o);
	free(text);
}

Test(conf, broken_files_are_survived)
{
	char *full = read_text(in_tree("docs/examples/full.yaml"));
	char *rules = read_text(in_tree("docs/examples/rules.yaml"));

	for (uint32_t seed = 1; seed <= 1500; seed++) {
		mutate_and_load(rules, seed * 2654435761u | 1);
		mutate_and_load(full, seed * 2246822519u | 1);
		mutate_and_load(plugged, seed * 3266489917u | 1);
		mutate_and_load(asked, seed * 668265263u | 1);
	}
	free(full);
	free(rules);
}
