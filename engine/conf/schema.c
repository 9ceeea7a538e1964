/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The tables everything in this room is driven by: keys (schema.def), scopes, types, words.
 * Constant data; a row that contradicts its structure does not compile.
 */
#include "engine/conf/conf_int.h"

#include <limits.h>

#define SECONDS(n) ((uint64_t)(n)*1000)
#define HOURS(n) ((uint64_t)(n)*3600 * 1000)
#define DAYS(n) HOURS((n)*24)
#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)

const char conf_required[] = "required";

static const struct word words_log_format[] = {
	{"json", LOG_JSON, NULL},
	{"logfmt", LOG_LOGFMT, NULL},
	{NULL, 0, NULL},
};

static const struct word words_log_level[] = {
	{"error", LOG_ERROR, NULL},
	{"warn", LOG_WARN, NULL},
	{"info", LOG_INFO, NULL},
	{"debug", LOG_DEBUG, NULL},
	{NULL, 0, NULL},
};

static const struct word words_starttls[] = {
	{"none", STARTTLS_NONE, NULL},
	{"passthrough", STARTTLS_PASSTHROUGH, NULL},
	{"offer", STARTTLS_OFFER, NULL},
	{"require", STARTTLS_REQUIRE, NULL},
	{"implicit", STARTTLS_IMPLICIT, NULL},
	{NULL, 0, NULL},
};

static const struct word words_tls[] = {
	{"off", CONF_TLS_OFF, NULL},
	{"opportunistic", CONF_TLS_OPPORTUNISTIC, NULL},
	{"require", CONF_TLS_REQUIRE, NULL},
	{"verify", CONF_TLS_VERIFY, NULL},
	{NULL, 0, NULL},
};

static const struct word words_tls_version[] = {
	{"1.2", TLS_1_2, NULL},
	{"1.3", TLS_1_3, NULL},
	{NULL, 0, NULL},
};

static const struct word words_client_cert[] = {
	{"none", TLS_CLIENT_NONE, NULL},
	{"optional", TLS_CLIENT_OPTIONAL, NULL},
	{"require", TLS_CLIENT_REQUIRED, NULL},
	{NULL, 0, NULL},
};

static const struct word words_clear_auth[] = {
	{"off", CLEAR_AUTH_OFF, NULL},
	{"local", CLEAR_AUTH_LOCAL, NULL},
	{"on", CLEAR_AUTH_ON, NULL},
	{NULL, 0, NULL},
};

static const struct word words_scan[] = {
	{"guard", SCAN_GUARD, NULL},
	{"reject", SCAN_REJECT, NULL},
	{"normalize", SCAN_NORMALIZE, NULL},
	{"pass", SCAN_PASS, NULL},
	{NULL, 0, NULL},
};

static const struct word words_mover[] = {
	{"auto", MOVER_AUTO, NULL},
	{"copy", MOVER_COPY, NULL},
	{"splice", MOVER_SPLICE, NULL},
	{"ring-splice", MOVER_RING_SPLICE, NULL},
	{"zero-copy", MOVER_ZERO_COPY, NULL},
	{NULL, 0, NULL},
};

static const struct word words_mode[] = {
	{"relay", 0, NULL},
	{"pool", 0, "this version of ringpost has no pool mode yet: mode can be relay"},
	{NULL, 0, NULL},
};

static const struct word words_balance[] = {
	{"round-robin", 0, NULL},
	{NULL, 0, NULL},
};

static const struct word words_hook[] = {
	{"rules", HOOK_RULES, NULL},
	{"plugin", HOOK_PLUGIN, NULL},
	{"lua", HOOK_LUA, NULL},
	{"policy", HOOK_POLICY, NULL},
	{"milter", HOOK_MILTER, NULL},
	{NULL, 0, NULL},
};

static const struct word words_hook_mode[] = {
	{"stream", HOOK_STREAM, NULL},
	{"hold-end", HOOK_HOLD_END, NULL},
	{"hold-all", HOOK_HOLD_ALL, NULL},
	{NULL, 0, NULL},
};

static const struct word words_events[] = {
#define X(id, number, word) {word, CONF_##id, NULL},
	CONF_EVENTS(X)
#undef X
		{NULL, 0, NULL},
};

static const struct word words_quarantine[] = {
	{"reject", QUARANTINE_REJECT, NULL},
	{"tempfail", QUARANTINE_TEMPFAIL, NULL},
	{"discard", QUARANTINE_DISCARD, NULL},
	{"accept", QUARANTINE_ACCEPT, NULL},
	{NULL, 0, NULL},
};

static const struct word words_failure[] = {
	{"accept", HOOK_FAILS_ACCEPT, NULL},
	{"tempfail", HOOK_FAILS_TEMPFAIL, NULL},
	{"reject", HOOK_FAILS_REJECT, NULL},
	{NULL, 0, NULL},
};

#define WIDTH(strct, member) ((uint32_t)sizeof(((strct *)NULL)->member))
#define COMMON(s, key, t, txt) .scope = SCOPE_##s, .name = key, .type = t, .text = txt
#define FIELD(strct, member) .off = offsetof(strct, member), .width = WIDTH(strct, member)

#define KEY(s, key, t, strct, member, dflt, lo, hi, u, txt)                               \
	{COMMON(s, key, t, txt), FIELD(strct, member), .def = dflt, .min = lo, .max = hi, \
		.unit = u},
#define PAIR(s, key, t, strct, member, second, dflt, lo, hi, u, txt)                    \
	{COMMON(s, key, t, txt), FIELD(strct, member), .off2 = offsetof(strct, second), \
		.def = dflt, .min = lo, .max = hi, .unit = u},
#define WORD(s, key, strct, member, w, dflt, txt) \
	{COMMON(s, key, TYPE_WORD, txt), FIELD(strct, member), .def = dflt, .words = w, .unit = ""},
#define WORDS(s, key, strct, member, w, dflt, txt)                                     \
	{COMMON(s, key, TYPE_WORDS, txt), FIELD(strct, member), .def = dflt, .min = 1, \
		.max = ARRAY_LEN(w) - 1, .words = w, .unit = ""},
#define FIXED(s, key, w, dflt, txt) \
	{COMMON(s, key, TYPE_WORD, txt), .def = dflt, .words = w, .unit = ""},
#define MAP(s, key, in, txt) {COMMON(s, key, TYPE_MAP, txt), .sub = in, .unit = ""},
#define NAMED(s, key, in, strct, member, cnt, lo, hi, txt) \
	NAMES(TYPE_NAMED, s, key, in, strct, member, cnt, lo, hi, txt)
#define LISTED(s, key, in, strct, member, cnt, lo, hi, txt) \
	NAMES(TYPE_CERTIFICATES, s, key, in, strct, member, cnt, lo, hi, txt)
#define NAMES(t, s, key, in, strct, member, cnt, lo, hi, txt)                                    \
	{COMMON(s, key, t, txt), .off = offsetof(struct conf, member),                           \
		.off2 = offsetof(struct conf, cnt), .size = sizeof(strct), .sub = in, .min = lo, \
		.max = hi, .unit = ""},
#define LATER(s, key, txt) {COMMON(s, key, TYPE_LATER, txt), .unit = ""},

const struct key conf_keys[] = {
#include "engine/conf/schema.def"
};
const size_t conf_key_count = ARRAY_LEN(conf_keys);

const struct scope_row conf_scopes[SCOPE_COUNT] = {
	[SCOPE_ROOT] = {.path = ""},
	[SCOPE_LOG] = {.path = "log"},
	[SCOPE_LIMITS] = {.path = "limits"},
	[SCOPE_HOLD] = {.path = "hold"},
	[SCOPE_HELPERS] = {.path = "helpers"},
	[SCOPE_CERTIFICATE] = {.path = "certificates.<name>"},
	[SCOPE_TLS] = {.path = "tls"},
	[SCOPE_LISTENER] = {.path = "listeners.<name>", .start = start_listener},
	[SCOPE_STARTTLS] = {.path = "listeners.<name>.starttls",
		.gate = "mode",
		.scalar = scalar_starttls},
	[SCOPE_LISTENER_TIMEOUTS] = {.path = "listeners.<name>.timeouts"},
	[SCOPE_LISTENER_LIMITS] = {.path = "listeners.<name>.limits"},
	[SCOPE_UPSTREAM] = {.path = "upstreams.<name>"},
	[SCOPE_UPSTREAM_TLS] = {.path = "upstreams.<name>.tls",
		.gate = "mode",
		.scalar = scalar_upstream_tls},
	[SCOPE_UPSTREAM_TIMEOUTS] = {.path = "upstreams.<name>.timeouts"},
	[SCOPE_HOOK] = {.path = "hooks.<name>", .gate = "type"},
	[SCOPE_HOOK_RULES] = {.path = "hooks.<name>",
		.within = SCOPE_HOOK,
		.when = "rules",
		.which = "built-in lists, which answer at once and refuse as `reply` says"},
	[SCOPE_REPLY] = {.path = "hooks.<name>.reply", .scalar = scalar_reply},
	[SCOPE_HOOK_PLUGIN] = {.path = "hooks.<name>",
		.within = SCOPE_HOOK,
		.when = "plugin",
		.which = "a shared object, which decides and words its replies by itself"},
	[SCOPE_HOOK_LUA] = {.path = "hooks.<name>",
		.within = SCOPE_HOOK,
		.when = "lua",
		.which = "a script, which decides and words its replies by itself"},
	[SCOPE_HOOK_POLICY] = {.path = "hooks.<name>",
		.within = SCOPE_HOOK,
		.when = "policy",
		.which = "a policy server, which is asked about the envelope and never sees a "
			 "message"},
	[SCOPE_HOOK_MILTER] = {.path = "hooks.<name>",
		.within = SCOPE_HOOK,
		.when = "milter",
		.which = "a mail filter, which says by itself what it wants to see"},
};

const struct type_row conf_types[TYPE_KINDS] = {
	[TYPE_BOOL] = {"switch", "`on` or `off`", set_bool, put_bool},
	[TYPE_COUNT] = {"count", "`500`, `20k` or `2m`", set_count, put_count},
	[TYPE_SIZE] = {"size", "`4096`, `64k`, `50m` or `4g`", set_size, put_size},
	[TYPE_DURATION] = {"duration", "`500ms`, `30s`, `5m`, `2h` or `14d`", set_duration,
		put_duration},
	[TYPE_RATE] = {"rate", "`10/s`, `600/min` or `5k/h`", set_rate, put_rate},
	[TYPE_WORD] = {"word", "", set_word, put_word},
	[TYPE_WORDS] = {"words", "`rcpt` or `[mail, rcpt]`", set_words, put_words},
	[TYPE_CPUS] = {"CPUs", "`auto`, `4` or `0-7,^3`", set_cpus, put_cpus},
	[TYPE_USER] = {"user name", "`ringpost`", set_user, put_user},
	[TYPE_LOG_TO] = {"destination", "`stderr` or `file:/var/log/ringpost.log`", set_log_to,
		put_log_to},
	[TYPE_NETS] = {"networks", "`any`, `10.0.0.0/8`, `2001:db8::/32` or `192.0.2.1`", set_nets,
		put_nets},
	[TYPE_BIND] = {"listening addresses", "`127.0.0.1:25`, `\"[::1]:25\"` or `unix:/path`",
		set_bind, put_bind},
	[TYPE_SERVERS] = {"server addresses",
		"`192.0.2.1:25`, `\"[2001:db8::1]:25\"` or `unix:/path`", set_servers, put_servers},
	[TYPE_ENDPOINT] = {"server address", "`127.0.0.1:10023`, `\"[::1]:10023\"` or `unix:/path`",
		set_endpoint, put_endpoint},
	[TYPE_SOURCE] = {"local address", "`192.0.2.1` or `2001:db8::1`", set_source, put_source},
	[TYPE_EXTENSIONS] = {"keywords", "`{KEYWORD: pass, OTHER: strip}`", set_extensions,
		put_extensions},
	[TYPE_HOOKS] = {"hook names", "`[first, second]`", set_hooks, put_hooks},
	[TYPE_UPSTREAM] = {"upstream name", "`mta`", set_upstream, put_upstream},
	[TYPE_PATTERNS] = {"mail addresses",
		"`user@example.org`, `\"@example.org\"` or `\"@.example.org\"` (every domain "
		"below)",
		set_patterns, put_patterns},
	[TYPE_NAMES] = {"host names", "`host.example.org` or `.example.org` (every name below)",
		set_names, put_names},
	[TYPE_CODE] = {"reply code", "`550`", set_code, put_code},
	[TYPE_ENHANCED] = {"enhanced code", "`5.7.1`", set_enhanced, put_enhanced},
	[TYPE_TEXT] = {"text", "`refused by policy`", set_line, put_line},
	[TYPE_PATH] = {"path",
		"`/usr/lib/ringpost/name.so`, `/etc/ringpost/name.lua` or `/var/tmp`", set_path,
		put_path},
	[TYPE_FILE] = {"path", "`/etc/ringpost/mx.pem`", set_path, put_path},
	[TYPE_CERTIFICATE] = {"certificates name", "`public`", set_certificate, put_certificate},
	[TYPE_HOST] = {"host name", "`mx.example.org`", set_host, put_host},
	[TYPE_PINS] = {"SHA-256 sums",
		"64 hexadecimal digits, with or without colons between each two", set_pins,
		put_pins},
	[TYPE_CIPHERS] = {"cipher names", "`TLS13-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256`",
		set_suites, put_suites},
	[TYPE_GROUPS] = {"group names", "`X25519:P-256`", set_suites, put_suites},
	[TYPE_OPTIONS] = {"options", "`{name: value, other: \"5\"}`", set_options, put_options},
	[TYPE_MAP] = {"mapping", "", set_map, NULL},
	[TYPE_NAMED] = {"named mappings", "", set_named, NULL},
	[TYPE_CERTIFICATES] = {"named certificates",
		"`{public: {chain: /etc/ringpost/mx.pem, key: /etc/ringpost/mx.key}}`", set_named,
		put_certificates},
	[TYPE_LATER] = {"", "", NULL, NULL},
};

const struct key *key_find(enum scope s, const char *name)
{
	for (size_t i = 0; i < conf_key_count; i++)
		if (conf_keys[i].scope == s && strcmp(conf_keys[i].name, name) == 0)
			return &conf_keys[i];
	return NULL;
}

bool scope_adds(enum scope s, enum scope to)
{
	return conf_scopes[s].when != NULL && conf_scopes[s].within == to;
}

enum scope scope_more(enum scope s, const void *base)
{
	const char *gate = conf_scopes[s].gate, *word;

	if (gate == NULL)
		return s;
	word = word_stored(key_find(s, gate), base);
	for (unsigned m = 0; m < SCOPE_COUNT; m++)
		if (scope_adds((enum scope)m, s) && strcmp(conf_scopes[m].when, word) == 0)
			return (enum scope)m;
	return s;
}
