/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Plugins: the layout of the public header, which is for ever; what the loader refuses; what an
 * event shows and what becomes of each verdict, with real shared objects (tests/plugins) on a real
 * ring, and with descriptors of the test's own.
 */
#include "tests/unit/hookbed.h"

#include <sys/stat.h>

/* ---- the layout, version 1 ---- */

#if defined(__x86_64__) && defined(__LP64__)
#define AT(type, field, offset)                                             \
	_Static_assert(offsetof(struct ringpost_##type, field) == (offset), \
		"ringpost_" #type "." #field " has moved")
#define SIZE(type, size) \
	_Static_assert(  \
		sizeof(struct ringpost_##type) == (size), "ringpost_" #type " is of another size")

_Static_assert(RINGPOST_ABI == 1, "another version needs another table");
_Static_assert(RINGPOST_ON_ALL == 0xfff, "the events of version 1");
_Static_assert(RINGPOST_ON_ENVELOPE == (RINGPOST_ON_ALL & ~RINGPOST_ON(RINGPOST_BODY)),
	"... and those without octets");
_Static_assert(RINGPOST_MAY_BLOCK == 1, "the flags of version 1");

AT(span, data, 0);
AT(span, size, 8);
SIZE(span, 16);

AT(event, size, 0);
AT(event, kind, 4);
AT(event, worker, 8);
AT(event, recipients, 12);
AT(event, session, 16);
AT(event, transaction, 24);
AT(event, listener, 32);
AT(event, client, 48);
AT(event, helo, 64);
AT(event, mechanism, 80);
AT(event, address, 96);
AT(event, params, 112);
AT(event, bytes, 128);
AT(event, result, 136);
AT(event, code, 140);
AT(event, client_port, 144);
AT(event, reserved, 146);
AT(event, user, 152);
AT(event, identity, 160);
AT(event, sender, 176);
AT(event, recipient, 192);
AT(event, server, 208);
AT(event, data, 224);
AT(event, esmtp, 240);
AT(event, server_port, 244);
AT(event, reserved2, 246);
AT(event, tls_version, 248);
AT(event, tls_cipher, 264);
AT(event, tls_subject, 280);
AT(event, tls_sha256, 296);
AT(event, tls_sni, 312);
AT(event, tls_bits, 328);
AT(event, tls_verified, 332);
SIZE(event, 336);

AT(change, kind, 0);
AT(change, index, 4);
AT(change, name, 8);
AT(change, value, 24);
SIZE(change, 40);

AT(answer, size, 0);
AT(answer, code, 4);
AT(answer, enhanced, 8);
AT(answer, text, 16);
AT(answer, changes, 24);
AT(answer, change_count, 32);
SIZE(answer, 40);

AT(token, a, 0);
AT(token, b, 8);
SIZE(token, 16);

AT(option, name, 0);
AT(option, value, 8);
SIZE(option, 16);

AT(host, abi, 0);
AT(host, size, 4);
AT(host, workers, 8);
AT(host, reserved, 12);
AT(host, name, 16);
AT(host, handle, 24);
AT(host, suspend, 32);
AT(host, answer, 40);
AT(host, log, 48);
AT(host, counter, 56);
AT(host, count, 64);
SIZE(host, 72);

AT(plugin, abi, 0);
AT(plugin, size, 4);
AT(plugin, name, 8);
AT(plugin, flags, 16);
AT(plugin, events, 20);
AT(plugin, open, 24);
AT(plugin, close, 32);
AT(plugin, event, 40);
SIZE(plugin, 48);
#endif

#define IS(name, value) _Static_assert((name) == (value), #name)
IS(RINGPOST_CONNECT, 0);
IS(RINGPOST_EHLO, 1);
IS(RINGPOST_AUTH, 2);
IS(RINGPOST_MAIL, 3);
IS(RINGPOST_RCPT, 4);
IS(RINGPOST_DATA, 5);
IS(RINGPOST_END_OF_DATA, 6);
IS(RINGPOST_STARTTLS, 7);
IS(RINGPOST_RESET, 8);
IS(RINGPOST_TRANSACTION, 9);
IS(RINGPOST_CLOSE, 10);
IS(RINGPOST_BODY, 11);
IS(RINGPOST_PASS, 0);
IS(RINGPOST_REJECT, 1);
IS(RINGPOST_TEMPFAIL, 2);
IS(RINGPOST_DROP, 3);
IS(RINGPOST_PENDING, 4);
IS(RINGPOST_DISCARD, 5);
IS(RINGPOST_CHANGE_ADDRESS, 1);
IS(RINGPOST_CHANGE_PARAMS, 2);
IS(RINGPOST_INSERT_HEADER, 3);
IS(RINGPOST_ADD_HEADER, 4);
IS(RINGPOST_CHANGE_HEADER, 5);
IS(RINGPOST_DELETE_HEADER, 6);
IS(RINGPOST_CHANGE_SENDER, 7);
IS(RINGPOST_ADD_RECIPIENT, 8);
IS(RINGPOST_DELETE_RECIPIENT, 9);
IS(RINGPOST_REPLACE_BODY, 10);
IS(RINGPOST_ACCEPTED, 1);
IS(RINGPOST_REJECTED, 2);
IS(RINGPOST_ABORTED, 3);
IS(RINGPOST_IN_DOUBT, 4);
IS(RINGPOST_CLIENT_GONE, 5);
IS(RINGPOST_DISCARDED, 6);
IS(RINGPOST_COUNTERS_MAX, 16);
IS(RINGPOST_LOG_ERROR, 0);
IS(RINGPOST_LOG_WARN, 1);
IS(RINGPOST_LOG_INFO, 2);

/* ---- the loader ---- */

static bool refused(const char *because)
{
	struct hook_set *set = open_set();

	return !set && strstr(said, because) != NULL;
}

Test(plugin, descriptors_that_are_refused)
{
	static const struct {
		const char *object, *because;
	} rows[] = {
		{"bad-abi.so",
			"made for version 2 of the plugin interface; this ringpost has version 1"},
		{"bad-size.so", "ringpost_plugin.size is 47, version 1 has 48 at least"},
		{"bad-name.so", "ringpost_plugin.name is not"},
		{"bad-flags.so", "ringpost_plugin.flags (0x2) has some that this ringpost does not "
				 "know"},
		{"bad-unknown.so", "asks for events that this ringpost does not know "
				   "(ringpost_plugin.events 0x1000)"},
		{"bad-none.so", "asks for no events"},
		{"bad-event.so", "has no ringpost_plugin.event"},
		{"bad-symbol.so", "it defines no `ringpost_plugin`"},
		{"bad-link.so", "bad-link.so: cannot be loaded: undefined symbol: nobody_defines"},
		{"bad-open.so", "file:1:2: hook `x`: plugin bad: option `key` is missing??\n"},
		{"bad-mute.so", "plugin bad: its open() failed and does not say why"},
		{"no-such.so", "no-such.so: No such file or directory"},
		{"../plugins", "plugins: not a regular file"},
	};
	int before = bed_fds();

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		conf.hook_count = 0;
		add_plugin("x", rows[i].object);
		cr_expect(refused(rows[i].because), "%s: %s", rows[i].object, said);
		cr_expect_eq(strncmp(said, "file:1:2: hook `x`: ", 20), 0, "%s", said);
		cr_expect_eq(bed_fds(), before, "%s", rows[i].object);
	}
}

Test(plugin, a_larger_descriptor_is_taken)
{
	struct hook_set *set;

	add_plugin("x", "bad-larger.so");
	set = open_set();
	cr_assert_not_null(set, "%s", said);
	hook_set_close(set);
}

static void copy_of(const char *object, const char *to, mode_t mode)
{
	char command[1500];

	snprintf(command, sizeof(command), "cp '%s' '%s'", built(object), to);
	cr_assert_eq(system(command), 0);
	cr_assert_eq(chmod(to, mode), 0);
}

Test(plugin, files_that_others_could_have_written)
{
	char dir[] = "/tmp/ringpost-plugin-XXXXXX", file[64];
	struct hook_set *set;

	cr_assert_not_null(mkdtemp(dir));
	snprintf(file, sizeof(file), "%s/observe.so", dir);
	add_plugin("x", file);
	copy_of("tests/plugins/observe.so", file, 0664);
	cr_expect(refused("may write to it (mode 0664)"), "%s", said);
	chmod(file, 0646);
	cr_expect(refused("may write to it (mode 0646)"), "%s", said);
	chmod(file, 0644);
	set = open_set();
	cr_expect_not_null(set, "%s", said);
	hook_set_close(set);
	chmod(dir, 0777);
	cr_expect(refused("everybody may write to this directory"), "%s", said);
	chmod(dir, 01777);
	set = open_set();
	cr_expect_not_null(set, "%s", said);
	hook_set_close(set);
	if (geteuid() == 0) {
		cr_assert_eq(chown(file, 12345, 0), 0);
		cr_expect(refused("belongs to user 12345"), "%s", said);
	} else {
		chmod(file, 0);
		cr_expect(refused("Permission denied"), "%s", said);
	}
	unlink(file);
	cr_assert_eq(mkfifo(file, 0600), 0);
	cr_expect(refused("not a regular file"), "%s", said);
	unlink(file);
	rmdir(dir);
}

/* The number of a closed descriptor comes again, and with it the name by which the linker knows an
 * object: the third hook must not get the second one's. */
Test(plugin, all_failures_are_told_and_nobody_gets_a_wrong_object)
{
	int before = bed_fds();

	option(add_plugin("good", "decide.so"), "text", "x");
	option(add_plugin("bad", "decide.so"), "colour", "red");
	option(add_plugin("watch", "observe.so"), "quiet", "yes");
	option(add_plugin("worse", "later.so"), "at", "nowhere");
	hooks[3].where = "file:9:9";
	cr_assert_null(open_set());
	cr_expect_str_eq(said,
		"file:1:2: hook `bad`: plugin decide: option `colour: red` is not one of decide\n"
		"file:9:9: hook `worse`: plugin later: option `at: nowhere` is not one of later\n");
	cr_expect_eq(bed_fds(), before);
}

Test(plugin, lists_want_what_their_hooks_want)
{
	struct conf_listener two[2] = {{.name = "a", .hooks = in_order, .hook_count = 2},
		{.name = "b", .hooks = in_order + 2, .hook_count = 1, .index = 1}};
	struct conf_pattern someone = {PAT_DOMAIN, SPAN_NONE, SPAN_LIT("a.example")};
	struct hook_set *set;

	add_hook("rules", HOOK_RULES)->rules.reject_null_sender = true;
	hooks[0].rules.clients.any = true;
	add_hook("more", HOOK_RULES)->rules.recipients = &someone;
	hooks[1].rules.recipient_count = 1;
	add_plugin("plugin", "cxx.so");
	add_hook("nobody's", HOOK_RULES)->rules.ehlo_count = 1;
	conf.listeners = two;
	conf.listener_count = 2;
	set = open_set();
	cr_assert_not_null(set, "%s", said);
	cr_expect_eq(set->wants[0], 1u << HOOK_CONNECT | 1u << HOOK_MAIL | 1u << HOOK_RCPT);
	cr_expect_eq(set->lists[0].count, 2u);
	cr_expect_eq(set->lists[0].hooks[1], &set->hooks[1]);
	cr_expect_eq(set->wants[1], 1u << HOOK_MAIL);
	cr_expect_eq(set->hooks[3].wants, 1u << HOOK_EHLO);
	hook_set_close(set);
}

Test(plugin, no_hooks_at_all)
{
	struct hook_set *set = open_set();

	cr_assert_not_null(set);
	hook_set_close(set);
	hook_set_close(NULL);
}

/* ---- verdicts at once ---- */

Test(plugin, verdicts)
{
	struct conf_hook *h = add_plugin("x", "decide.so");

	option(h, "reject", "bad@a.example");
	option(h, "tempfail", "192.0.2.1");
	option(h, "drop", "worse.example");
	begin();
	cr_expect_eq(ask(HOOK_CONNECT, NULL), HOOK_NO);
	EXPECT_NO(450, "4.7.1", "try again later", false);
	cr_expect_eq(ask(HOOK_EHLO, "worse.example"), HOOK_NO);
	EXPECT_NO(421, "4.7.1", "closing connection", true);
	cr_expect_eq(ask(HOOK_MAIL, "bad@a.example"), HOOK_NO);
	EXPECT_NO(550, "5.7.1", "refused by policy", false);
	cr_expect_str_eq(no->word, "hook:word");
	cr_expect_eq(ask(HOOK_RCPT, "bad@a.example2"), HOOK_PASS);
	cr_expect_eq(ask(HOOK_AUTH, "PLAIN"), HOOK_PASS);
	cr_expect_eq(ask(HOOK_DATA, NULL), HOOK_PASS);
	cr_expect_eq(stats.hook_refusals, 3u);
	cr_expect_eq(stats.hook_failures, 0u);
	end();
}

Test(plugin, words_of_a_refusal)
{
	struct conf_hook *h = add_plugin("x", "decide.so");

	option(h, "reject", "bad@a.example");
	option(h, "code", "521");
	option(h, "enhanced", "5.1.10");
	option(h, "text", "not\r\n250 here \xc3\xa4");
	begin();
	cr_expect_eq(ask(HOOK_RCPT, "bad@a.example"), HOOK_NO);
	EXPECT_NO(521, "5.1.10", "not??250 here ??", false);
	end();
}

/* A drop is 421, whatever code its plugin names; words of the wrong class are not taken. */
Test(plugin, words_of_a_drop)
{
	struct conf_hook *h = add_plugin("x", "decide.so");

	option(h, "drop", "bad@a.example");
	option(h, "code", "450");
	option(h, "enhanced", "5.7.1");
	option(h, "text", "go");
	begin();
	cr_expect_eq(ask(HOOK_RCPT, "bad@a.example"), HOOK_NO);
	EXPECT_NO(421, "4.7.1", "go", true);
	end();
}

Test(plugin, what_is_no_verdict_is_a_failure)
{
	struct conf_hook *h = add_plugin("x", "decide.so");

	option(h, "odd", "odd@a.example");
	option(h, "odd-pending", "pending@a.example");
	begin();
	cr_expect_eq(ask(HOOK_RCPT, "odd@a.example"), HOOK_NO);
	cr_expect_eq(no->code, 451);
	h->on_failure = HOOK_FAILS_REJECT;
	cr_expect_eq(ask(HOOK_RCPT, "pending@a.example"), HOOK_NO);
	cr_expect_eq(no->code, 554);
	h->on_failure = HOOK_FAILS_ACCEPT;
	cr_expect_eq(ask(HOOK_RCPT, "odd@a.example"), HOOK_PASS);
	cr_expect_eq(stats.hook_failures, 3u);
	const char *text = logged();
	const char *line = strstr(text, "ev=hook-warning");
	cr_assert_not_null(line, "%s", text);
	cr_expect_not_null(
		strstr(line, "rcpt: plugin decide: what it returned is no verdict here: 77"));
	cr_expect_null(strstr(line + 1, "ev=hook-warning"), "more than one a second: %s", text);
	end();
}

Test(plugin, rules_answer_as_hooks)
{
	struct conf_hook *h = add_hook("x", HOOK_RULES);
	struct hook_event ev;
	struct hook_ask asked = {&core, &seat, &listener, &ev};
	struct hook_verdict v = {0};

	h->rules.reject_null_sender = true;
	h->rules.reply = (struct local_reply){450, "4.2.1", "later", "rule:x"};
	begin();
	cr_expect_eq(ask(HOOK_MAIL, ""), HOOK_NO);
	cr_expect_eq(no, &h->rules.reply);
	cr_expect_eq(ask(HOOK_MAIL, "a@b.example"), HOOK_PASS);
	cr_expect_eq(ask(HOOK_CONNECT, NULL), HOOK_PASS);
	tell(HOOK_CLOSE);
	ev = make_event(HOOK_MAIL, "");
	cr_expect_eq(hook_rules_class.ask(&core.set->hooks[0], &asked, &v), REACH_ANSWERED);
	cr_expect_eq(v.kind, VERDICT_TEMPFAIL);
	h->rules.reply.code = 550;
	cr_expect_eq(hook_rules_class.ask(&core.set->hooks[0], &asked, &v), REACH_ANSWERED);
	cr_expect_eq(v.kind, VERDICT_REJECT);
	end();
}

/* ---- what a session keeps ---- */

/* Each hook has its own pointer, though two of them are the same object, and a seat that begins
 * anew begins with NULL. */
Test(plugin, a_session_keeps_its_pointers)
{
	add_plugin("first", "observe.so");
	option(add_plugin("silent", "observe.so"), "quiet", "yes");
	add_plugin("second", "observe.so");
	begin();
	for (unsigned round = 0; round < 2; round++) {
		const char *text;

		ask(HOOK_CONNECT, NULL);
		ask(HOOK_MAIL, "a@b.example");
		ask(HOOK_RCPT, "c@d.example");
		ask(HOOK_RCPT, "e@f.example");
		tell(HOOK_TRANSACTION);
		tell(HOOK_CLOSE);
		hook_leave(&core, &seat);
		text = logged();
		for (unsigned i = 0; i < 2; i++) {
			text = strstr(text, "ev=hook level=info hook=");
			cr_assert_not_null(text);
			text += strlen("ev=hook level=info hook=");
			cr_expect_eq(strncmp(text, i ? "second" : "first", 5), 0, "%s", text);
			cr_expect_not_null(
				strstr(text, "session 000000000000051d from 192.0.2.1: connect=1 "
					     "mail=1 rcpt=2 transaction=1 close=1 bytes=1000"),
				"%s", text);
		}
		cr_expect_null(strstr(text, "ev=hook"));
	}
	end();
}

Test(plugin, no_room_for_pointers_is_a_failure)
{
	struct hook_seat others[SESSIONS] = {0};
	struct hook_event ev = make_event(HOOK_DATA, NULL);

	add_plugin("x", "observe.so");
	begin();
	for (unsigned i = 0; i < SESSIONS; i++)
		cr_expect_eq(ask_for(&others[i], &ev), HOOK_PASS);
	cr_expect_eq(ask(HOOK_DATA, NULL), HOOK_NO);
	cr_expect_eq(stats.hook_failures, 1u);
	tell(HOOK_CLOSE);
	ev.point = HOOK_CLOSE;
	for (unsigned i = 0; i < SESSIONS; i++) {
		hook_tell(&core, &others[i], &listener, &ev);
		hook_leave(&core, &others[i]);
	}
	/* Where others' pointers were there is NULL again. */
	cr_expect_eq(ask(HOOK_DATA, NULL), HOOK_PASS);
	tell(HOOK_CLOSE);
	end();
}

Test(plugin, an_event_that_takes_long_is_told)
{
	struct conf_hook *h = add_plugin("x", "decide.so");
	const char *text;

	option(h, "slow", "45");
	begin();
	for (unsigned i = 0; i < 3; i++)
		cr_expect_eq(ask(HOOK_DATA, NULL), HOOK_PASS);
	cr_expect_eq(stats.hook_overruns, 3u);
	text = logged();
	text = strstr(text, "data: plugin decide: held up a worker, milliseconds: ");
	cr_assert_not_null(text);
	cr_expect_null(strstr(strchr(text, '\n'), "held up"));
	end();
}

/* ---- later ---- */

static void later_with(const char *verdict, const char *text)
{
	struct conf_hook *h = add_plugin("x", "later.so");

	option(h, "at", "rcpt");
	option(h, "ms", "5");
	option(h, "verdict", verdict);
	if (text)
		option(h, "text", text);
}

Test(plugin, an_answer_that_comes_later)
{
	later_with("reject", "found it");
	begin();
	cr_expect_eq(ask(HOOK_MAIL, "a@b.example"), HOOK_PASS);
	cr_expect_eq(ask(HOOK_RCPT, "a@b.example"), HOOK_LATER);
	cr_expect_eq(stats.hooks_now, 1u);
	cr_expect_eq(ask(HOOK_RCPT, "a@b.example"), HOOK_LATER);
	wait_until_woken();
	cr_expect_eq(ask(HOOK_RCPT, "a@b.example"), HOOK_NO);
	EXPECT_NO(550, "5.7.1", "found it", false);
	cr_expect_eq(stats.hooks_now, 0u);
	end();
}

Test(plugin, a_second_answer_is_too_late)
{
	later_with("twice", NULL);
	begin();
	cr_expect_eq(ask(HOOK_RCPT, "a@b.example"), HOOK_LATER);
	wait_until_woken();
	cr_expect_eq(ask(HOOK_RCPT, "a@b.example"), HOOK_PASS);
	for (unsigned i = 0; i < BED_TURNS_MAX && stats.hook_late_answers == 0; i++)
		turn();
	cr_expect_eq(stats.hook_late_answers, 1u);
	cr_expect_eq(stats.hook_refusals, 0u);
	end();
}

Test(plugin, no_answer_at_all)
{
	later_with("never", NULL);
	hooks[0].deadline_ms = 30;
	begin();
	cr_expect_eq(ask(HOOK_RCPT, "a@b.example"), HOOK_LATER);
	wait_until_woken();
	cr_expect_eq(ask(HOOK_RCPT, "a@b.example"), HOOK_NO);
	cr_expect_eq(no->code, 451);
	cr_expect_eq(stats.hook_deadlines, 1u);
	/* A session that leaves takes its question along. */
	cr_expect_eq(ask(HOOK_RCPT, "a@b.example"), HOOK_LATER);
	end();
}

Test(plugin, who_answers_at_once_after_all)
{
	later_with("taken-back", NULL);
	begin();
	cr_expect_eq(ask(HOOK_RCPT, "a@b.example"), HOOK_PASS);
	cr_expect_eq(stats.hooks_now, 0u);
	cr_expect_not(hook_waits(&seat));
	end();
}

Test(plugin, the_next_hook_is_asked_behind_an_answer)
{
	later_with("pass", NULL);
	option(add_plugin("y", "decide.so"), "reject", "a@b.example");
	begin();
	cr_expect_eq(ask(HOOK_RCPT, "a@b.example"), HOOK_LATER);
	wait_until_woken();
	cr_expect_eq(ask(HOOK_RCPT, "a@b.example"), HOOK_NO);
	cr_expect_eq(no->code, 550);
	end();
}

Test(plugin, news_cannot_be_suspended)
{
	later_with("pass", NULL);
	option(&hooks[0], "news", "yes");
	begin();
	tell(HOOK_STARTTLS);
	tell(HOOK_CLOSE);
	cr_expect_eq(stats.hooks_now, 0u);
	cr_expect_null(strstr(logged(), "news can be suspended"));
	end();
}

/* ---- changes ---- */

static void changing(const char *at, const char *later)
{
	struct conf_hook *h = add_plugin("x", "change.so");

	option(h, "at", at);
	if (later)
		option(h, "later", later);
}

static enum hook_said ask_and_wait(enum hook_point point, const char *about)
{
	enum hook_said what = ask(point, about);

	if (what != HOOK_LATER)
		return what;
	wait_until_woken();
	return ask(point, about);
}

static void expect_edit(const struct hook_edits *list, size_t *at, enum hook_edit_kind kind,
	uint32_t index, const char *name, const char *value)
{
	struct hook_edit e;

	cr_assert(hook_edits_next(list, at, &e));
	cr_expect_eq(e.kind, kind);
	cr_expect_eq(e.index, index);
	cr_expect(span_eq(e.name, span_str(name)), "%.*s", (int)e.name.n, (const char *)e.name.p);
	cr_expect(
		span_eq(e.value, span_str(value)), "%.*s", (int)e.value.n, (const char *)e.value.p);
}

Test(plugin, in_cxx)
{
	struct hook_edits *list;
	size_t at = 0;
	uint64_t n = 0;

	add_plugin("x", "cxx.so");
	begin();
	cr_expect_eq(ask(HOOK_MAIL, ""), HOOK_NO);
	EXPECT_NO(550, "5.7.1", "no bounces here", false);
	cr_expect_eq(ask(HOOK_MAIL, "a@b.example"), HOOK_PASS);
	cr_expect_null(seats[0].edits);
	cr_expect_eq(ask(HOOK_MAIL, "old@b.example"), HOOK_PASS);
	list = hook_take_edits(&seats[0]);
	expect_edit(list, &at, EDIT_ADDRESS, 0, "", "new@b.example");
	expect_edit(list, &at, EDIT_HEADER_INSERT, 0, "X-Was", " old@b.example");
	hook_edits_free(list);
	cr_expect_str_eq(hook_set_counter(core.set, 0, 0, &n), "senders");
	cr_expect_eq(n, 3u);
	end();
}

/* By what event() returns, and by answer(). */
Test(plugin, changes_of_a_command)
{
	for (unsigned round = 0; round < 2; round++) {
		struct hook_edits *list;
		size_t at = 0;

		conf.hook_count = 0;
		hooks[0].option_count = 0;
		changing("mail", round ? "yes" : NULL);
		option(&hooks[0], "address", "n@b.example");
		option(&hooks[0], "insert", "X-A: one\r\n\ttwo");
		begin();
		cr_expect_eq(ask_and_wait(HOOK_MAIL, "a@b.example"), HOOK_PASS);
		list = hook_take_edits(&seats[0]);
		expect_edit(list, &at, EDIT_ADDRESS, 0, "", "n@b.example");
		expect_edit(list, &at, EDIT_HEADER_INSERT, 0, "X-A", " one\r\n\ttwo");
		hook_edits_free(list);
		cr_expect_eq(ask_and_wait(HOOK_RCPT, "a@b.example"), HOOK_PASS);
		cr_expect_null(hook_take_edits(&seats[0]));
		cr_expect_eq(stats.hook_failures, 0u);
		end();
	}
}

Test(plugin, changes_of_a_message)
{
	struct hook_edits *list;
	size_t at = 0;

	changing("end-of-data", NULL);
	hooks[0].mode = HOOK_HOLD_ALL;
	option(&hooks[0], "change", "2 Subject: x");
	option(&hooks[0], "add-recipient", "more@b.example");
	option(&hooks[0], "body", "new\r\n");
	begin();
	cr_expect_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_FEED);
	cr_expect_eq(ask(HOOK_END_OF_DATA, NULL), HOOK_PASS);
	list = hook_take_edits(&seats[0]);
	expect_edit(list, &at, EDIT_HEADER_CHANGE, 2, "Subject", " x");
	expect_edit(list, &at, EDIT_RCPT_ADD, 0, "", "more@b.example");
	expect_edit(list, &at, EDIT_BODY, 0, "", "new\r\n");
	hook_edits_free(list);
	end();
}

/* Not well-formed, or nothing that can be done there: the hook has failed, and no half of it is
 * made. */
Test(plugin, changes_that_cannot_be)
{
	static const struct {
		enum hook_point point;
		const char *at, *what, *value, *because;
	} rows[] = {
		{HOOK_MAIL, "mail", "odd", "kind", "not well-formed"},
		{HOOK_MAIL, "mail", "odd", "null", "not well-formed"},
		{HOOK_MAIL, "mail", "address", "no mailbox", "not well-formed"},
		{HOOK_RCPT, "rcpt", "address", "", "not well-formed"},
		{HOOK_MAIL, "mail", "params", "SIZE=1\r\nRSET", "not well-formed"},
		{HOOK_DATA, "data", "insert", "X A: b", "not well-formed"},
		{HOOK_DATA, "data", "insert", "X-A: b\r\nc", "not well-formed"},
		{HOOK_DATA, "data", "address", "n@b.example", "is not possible here"},
		{HOOK_MAIL, "mail", "insert", "1 X-A: b", "is not possible here"},
		{HOOK_EHLO, "ehlo", "insert", "X-A: b", "is not possible here"},
		{HOOK_END_OF_DATA, "end-of-data", "add", "X-A: b", "is not possible here"},
	};

	for (size_t i = 0; i < 2 * ARRAY_LEN(rows); i++) {
		size_t r = i / 2;
		enum hook_point point = rows[r].point;
		const char *text;

		conf.hook_count = 0;
		hooks[0].option_count = 0;
		memset(&stats, 0, sizeof(stats));
		changing(rows[r].at, i % 2 ? "yes" : NULL);
		hooks[0].mode = HOOK_HOLD_END;
		option(&hooks[0], "insert", "X-Good: yes");
		option(&hooks[0], rows[r].what, rows[r].value);
		begin();
		cr_expect_eq(ask_and_wait(point, "a@b.example"), HOOK_NO, "row %zu", i);
		cr_assert_not_null(no);
		cr_expect_eq(no->code, 451);
		cr_expect_null(seats[0].edits);
		cr_expect_eq(stats.hook_failures, 1u, "row %zu", i);
		text = logged();
		cr_expect_not_null(strstr(text, rows[r].because), "row %zu: %s", i, text);
		end();
	}
}

/* ---- what an event shows, and what the host does: with a descriptor of our own ---- */

static struct ringpost_event seen;
static char seen_text[16][64];
static const struct ringpost_host *host;
static struct ringpost_token token;
static uint32_t (*what_now)(const struct ringpost_event *ev);

static void keep_text(unsigned i, struct ringpost_span s)
{
	cr_assert(s.size < sizeof(seen_text[i]));
	if (s.size)
		memcpy(seen_text[i], s.data, s.size);
	seen_text[i][s.size] = '\0';
}

static uint32_t look(void *self, const struct ringpost_event *ev, struct ringpost_answer *answer)
{
	cr_assert_eq(self, &host);
	cr_assert_eq(answer->size, sizeof(*answer));
	cr_assert(answer->code == 0 && !answer->enhanced && !answer->text);
	cr_assert(!answer->changes && answer->change_count == 0);
	seen = *ev;
	keep_text(0, ev->listener);
	keep_text(1, ev->client);
	keep_text(2, ev->helo);
	keep_text(3, ev->mechanism);
	keep_text(4, ev->address);
	keep_text(5, ev->params);
	keep_text(6, ev->identity);
	keep_text(7, ev->sender);
	keep_text(8, ev->recipient);
	keep_text(9, ev->server);
	keep_text(10, ev->data);
	keep_text(11, ev->tls_version);
	keep_text(12, ev->tls_cipher);
	keep_text(13, ev->tls_subject);
	keep_text(14, ev->tls_sha256);
	keep_text(15, ev->tls_sni);
	return what_now ? what_now(ev) : RINGPOST_PASS;
}

static const struct ringpost_plugin looker = {RINGPOST_ABI, sizeof(struct ringpost_plugin),
	"looker", 0, RINGPOST_ON_ALL, NULL, NULL, look};
static const struct ringpost_plugin *loaded;

/* Any plugin, whose descriptor is then exchanged. */
static void begin_looking_with(enum conf_hook_mode mode)
{
	struct conf_hook *h = add_plugin("looking", "change.so"); /* asks for all events */
	struct plugin *p;

	h->mode = mode;
	h->option_count = 0;
	option(h, "at", "mail");
	begin();
	if (mode != HOOK_STREAM)
		core.set->hooks[0].wants |= 1u << HOOK_BODY;
	p = core.set->hooks[0].self;
	loaded = p->says;
	host = &p->host;
	cr_expect_eq(host->abi, RINGPOST_ABI);
	cr_expect_eq(host->size, sizeof(*host));
	cr_expect_eq(host->workers, (uint32_t)WORKERS);
	cr_expect_str_eq(host->name, "looking");
	p->says = &looker;
	free(p->self);
	p->self = &host;
}

static void begin_looking(void)
{
	begin_looking_with(HOOK_STREAM);
}

static void end_looking(void)
{
	struct plugin *p = core.set->hooks[0].self;

	p->says = loaded;
	p->self = NULL;
	end();
}

Test(plugin, what_an_event_shows)
{
	struct hook_event ev = make_event(HOOK_RCPT, "c@d.example");
	struct smtp_path path = {
		.mailbox = SPAN_LIT("\"c\"@d.example"), .params = SPAN_LIT(" NOTIFY=NEVER \t")};

	begin_looking();
	ev.path = &path;
	ev.recipients = 3;
	cr_expect_eq(ask_for(&seat, &ev), HOOK_PASS);
	cr_expect_eq(seen.size, sizeof(seen));
	cr_expect_eq(seen.kind, (uint32_t)RINGPOST_RCPT);
	cr_expect_eq(seen.worker, 0u);
	cr_expect_eq(seen.recipients, 3u);
	cr_expect_eq(seen.session, 0x51du);
	cr_expect_eq(seen.transaction, 0x71du);
	cr_expect_eq(seen.client_port, 4321u);
	cr_expect_eq(seen.reserved, 0u);
	cr_expect_str_eq(seen_text[0], "in");
	cr_expect_str_eq(seen_text[1], "192.0.2.1");
	cr_expect_str_eq(seen_text[2], "client.example");
	cr_expect_str_eq(seen_text[3], "");
	cr_expect_str_eq(seen_text[4], "\"c\"@d.example");
	cr_expect_str_eq(seen_text[5], "NOTIFY=NEVER");
	cr_expect_eq(seen.user, &seat.own[0]);
	cr_expect_null(*seen.user);
	ev = make_event(HOOK_TRANSACTION, NULL);
	ev.outcome = HOOK_REJECTED;
	ev.code = 554;
	hook_tell(&core, &seat, &listener, &ev);
	cr_expect_eq(seen.kind, (uint32_t)RINGPOST_TRANSACTION);
	cr_expect_eq(seen.bytes, 1000u);
	cr_expect_eq(seen.result, (uint32_t)RINGPOST_REJECTED);
	cr_expect_eq(seen.code, 554u);
	cr_expect_eq(seen.address.size, 0u);
	ask(HOOK_AUTH, "PLAIN");
	cr_expect_str_eq(seen_text[3], "PLAIN");
	end_looking();
}

Test(plugin, what_an_event_shows_of_the_session)
{
	struct hook_event ev = make_event(HOOK_DATA, NULL);
	struct ring_addr server = loop_addr(2525);

	begin_looking();
	cr_expect_eq(ask_for(&seats[0], &ev), HOOK_PASS);
	cr_expect_eq(seen.esmtp, 0u);
	for (unsigned i = 6; i < 11; i++)
		cr_expect_str_eq(seen_text[i], "");
	cr_expect_eq(seen.server_port, 0u);
	ev.ehlo = true;
	ev.server = &server;
	ev.mechanism = SPAN_LIT("PLAIN");
	ev.identity = SPAN_LIT("someone");
	ev.sender = SPAN_LIT("a@b.example");
	ev.only_rcpt = SPAN_LIT("c@d.example");
	cr_expect_eq(ask_for(&seats[0], &ev), HOOK_PASS);
	cr_expect_eq(seen.esmtp, 1u);
	cr_expect_str_eq(seen_text[3], "PLAIN");
	cr_expect_str_eq(seen_text[6], "someone");
	cr_expect_str_eq(seen_text[7], "a@b.example");
	cr_expect_str_eq(seen_text[8], "c@d.example");
	cr_expect_str_eq(seen_text[9], "127.0.0.1");
	cr_expect_eq(seen.server_port, 2525u);
	cr_expect_str_eq(seen_text[10], "");
	end_looking();
}

Test(plugin, what_an_event_shows_of_tls)
{
	struct hook_event ev = make_event(HOOK_EHLO, "x");
	struct hook_tls tls = some_tls();
	struct ringpost_event old = {.size = offsetof(struct ringpost_event, tls_version)};

	begin_looking();
	ev.tls = &tls;
	cr_expect_eq(ask_for(&seats[0], &ev), HOOK_PASS);
	cr_expect_str_eq(seen_text[11], "TLSv1.3");
	cr_expect_str_eq(seen_text[12], "TLS_AES_128_GCM_SHA256");
	cr_expect_str_eq(seen_text[13], "Some\nOne+1\xc3\xa9");
	cr_expect_eq(seen.tls_sha256.size, 32u);
	cr_expect_eq(memcmp(seen_text[14], tls.sha256.p, 32), 0);
	cr_expect_str_eq(seen_text[15], "mx.example");
	cr_expect_eq(seen.tls_bits, 128u);
	cr_expect_eq(seen.tls_verified, 1u);
	tls.verified = false;
	cr_expect_eq(ask_for(&seats[0], &ev), HOOK_PASS);
	cr_expect_eq(seen.tls_verified, 0u);
	cr_expect_str_eq(seen_text[13], "Some\nOne+1\xc3\xa9");
	/* In clear. */
	cr_expect_eq(ask(HOOK_EHLO, "x"), HOOK_PASS);
	for (unsigned i = 11; i < 16; i++)
		cr_expect_str_eq(seen_text[i], "");
	cr_expect_eq(seen.tls_bits, 0u);
	cr_expect_eq(seen.tls_verified, 0u);
	/* What a plugin asks an older ringpost. */
	cr_expect(RINGPOST_HAS(&seen, tls_verified));
	cr_expect(RINGPOST_HAS(&old, reserved2));
	cr_expect_not(RINGPOST_HAS(&old, tls_version));
	old.size = sizeof(old) - 1;
	cr_expect(RINGPOST_HAS(&old, tls_bits));
	cr_expect_not(RINGPOST_HAS(&old, tls_verified));
	end_looking();
}

/* Only to those that are to hold the end. */
Test(plugin, octets_of_the_message)
{
	for (unsigned mode = HOOK_STREAM; mode <= HOOK_HOLD_END; mode++) {
		struct hook_event ev = make_event(HOOK_BODY, NULL);

		conf.hook_count = 0;
		memset(seen_text, 0, sizeof(seen_text));
		begin_looking_with((enum conf_hook_mode)mode);
		ev.data = SPAN_LIT("a\r\n.b");
		hook_show(&core, &seats[0], &listener, &ev);
		cr_expect_str_eq(seen_text[10], mode == HOOK_STREAM ? "" : "a\r\n.b");
		seen.kind = 99;
		ask(HOOK_END_OF_DATA, NULL);
		cr_expect_eq(seen.kind, mode == HOOK_STREAM ? 99u : RINGPOST_END_OF_DATA);
		end_looking();
	}
}

static uint32_t suspend_twice(const struct ringpost_event *ev)
{
	struct ringpost_token other = host->suspend(host->handle, ev);

	token = host->suspend(host->handle, NULL);
	cr_expect(other.a == token.a && other.b == token.b);
	cr_expect(token.a != 0 || token.b != 0);
	other = host->suspend(&token, ev);
	cr_expect(other.a == 0 && other.b == 0, "somebody else's handle");
	return RINGPOST_PENDING;
}

/* Of a plugin that was compiled before there were changes: what lies behind is not looked at. */
static uint32_t short_answer(const struct ringpost_event *ev)
{
	struct ringpost_answer a = {.size = offsetof(struct ringpost_answer, changes),
		.changes = (const struct ringpost_change *)(uintptr_t)1,
		.change_count = 1};

	token = host->suspend(host->handle, ev);
	cr_expect_eq(host->answer(host->handle, token, RINGPOST_PASS, &a), 0);
	a.size--;
	cr_expect_eq(host->answer(host->handle, token, RINGPOST_PASS, &a), -1);
	return RINGPOST_PENDING;
}

Test(plugin, an_answer_of_an_older_plugin)
{
	begin_looking();
	what_now = short_answer;
	cr_expect_eq(ask_and_wait(HOOK_DATA, NULL), HOOK_PASS);
	cr_expect_eq(stats.hook_failures, 0u);
	end_looking();
}

static int answer_with(uint64_t a, uint64_t b, uint32_t verdict)
{
	return host->answer(host->handle, (struct ringpost_token){a, b}, verdict, NULL);
}

Test(plugin, tokens_and_answers_that_are_none)
{
	struct ringpost_token outside;

	begin_looking();
	outside = host->suspend(host->handle, &seen);
	cr_expect(outside.a == 0 && outside.b == 0, "there is no question");
	what_now = suspend_twice;
	cr_expect_eq(ask(HOOK_DATA, NULL), HOOK_LATER);
	outside = host->suspend(host->handle, &seen);
	cr_expect(outside.a == 0 && outside.b == 0, "event() has come back");
	cr_expect_eq(answer_with(0, 0, RINGPOST_PASS), -1);
	cr_expect_eq(answer_with(token.a, token.b & ~(uint64_t)0xff, RINGPOST_PASS), -1);
	cr_expect_eq(answer_with(token.a, token.b | 1ull << 48, RINGPOST_PASS), -1);
	cr_expect_eq(answer_with(token.a, token.b + (2ull << 40), RINGPOST_PASS), -1,
		"nobody is asked at STARTTLS");
	cr_expect_eq(answer_with(token.a + (7ull << 32), token.b, RINGPOST_PASS), -1);
	cr_expect_eq(answer_with(token.a + (1ull << 32), token.b, RINGPOST_PASS), -1,
		"that worker does not run");
	cr_expect_eq(answer_with(token.a, token.b, RINGPOST_PENDING), -1);
	cr_expect_eq(answer_with(token.a, token.b, 6), -1);
	/* On their way, and nobody's. */
	cr_expect_eq(answer_with(token.a, token.b + 0x100, RINGPOST_REJECT), 0);
	cr_expect_eq(answer_with(token.a + 1, token.b, RINGPOST_REJECT), 0);
	cr_expect_eq(answer_with(token.a, token.b, RINGPOST_TEMPFAIL), 0);
	wait_until_woken();
	cr_expect_eq(stats.hook_late_answers, 2u);
	cr_expect_eq(ask(HOOK_DATA, NULL), HOOK_NO);
	cr_expect_eq(no->code, 450);
	end_looking();
}

static uint32_t discard(const struct ringpost_event *ev)
{
	return RINGPOST_DISCARD;
}

Test(plugin, a_message_is_discarded)
{
	begin_looking();
	what_now = discard;
	cr_expect_eq(ask(HOOK_EHLO, "x"), HOOK_PASS, "there is no message");
	cr_expect_eq(ask(HOOK_RCPT, "a@b.example"), HOOK_DISCARD);
	EXPECT_NO(250, "2.0.0", "message accepted", false);
	cr_expect_eq(stats.hook_failures, 0u);
	end_looking();
}

/* ---- counters ---- */

static int counter_of(const char *name)
{
	return host->counter(host->handle, name);
}

/* Names are taken in open() only: this is one. */
Test(plugin, counters)
{
	struct plugin *p;
	uint64_t n = 0;
	char name[33];

	begin_looking();
	p = core.set->hooks[0].self;
	cr_expect_eq(counter_of("late"), -1, "open() has come back");
	cr_expect_null(hook_set_counter(core.set, 0, 0, &n));
	p->opening = true;
	cr_expect_eq(counter_of("Mails_2"), 0);
	cr_expect_eq(counter_of("Mails_2"), -1);
	cr_expect_eq(counter_of("ev"), -1);
	cr_expect_eq(counter_of(""), -1);
	cr_expect_eq(counter_of(NULL), -1);
	cr_expect_eq(counter_of("a-b"), -1);
	cr_expect_eq(counter_of("a b"), -1);
	cr_expect_eq(counter_of("a\xc3\xa4"), -1);
	cr_expect_eq(counter_of("a2345678901234567890123456789012"), -1);
	cr_expect_eq(counter_of("a234567890123456789012345678901"), 1);
	for (int i = 2; i < RINGPOST_COUNTERS_MAX; i++) {
		snprintf(name, sizeof(name), "c%d", i);
		cr_expect_eq(counter_of(name), i);
	}
	cr_expect_eq(counter_of("more"), -1);
	host->count(host->handle, 0, 5);
	host->count(host->handle, 0, 1ull << 40);
	host->count(host->handle, -1, 5);
	host->count(host->handle, RINGPOST_COUNTERS_MAX, 5);
	cr_expect_str_eq(hook_set_counter(core.set, 0, 0, &n), "Mails_2");
	cr_expect_eq(n, 5 + (1ull << 40));
	cr_expect_str_eq(hook_set_counter(core.set, 0, 15, &n), "c15");
	cr_expect_eq(n, 0u);
	cr_expect_null(hook_set_counter(core.set, 0, 16, &n));
	end_looking();
}

static uint32_t log_words(const struct ringpost_event *ev)
{
	host->log(host->handle, RINGPOST_LOG_ERROR, "first");
	host->log(host->handle, RINGPOST_LOG_WARN, NULL);
	host->log(host->handle, 77, "two\nlines");
	return RINGPOST_PASS;
}

Test(plugin, log_lines)
{
	const char *text;

	begin_looking();
	what_now = log_words;
	ask(HOOK_DATA, NULL);
	text = logged();
	cr_expect_not_null(
		strstr(text, "ev=hook-error level=error hook=looking text=first\n"), "%s", text);
	cr_expect_null(strstr(text, "hook-warning"));
	text = strstr(text, "ev=hook level=info");
	cr_assert_not_null(text);
	cr_expect_eq(strchr(text, '\n')[1], '\0', "one line: %s", text);
	end_looking();
}

/* ---- addresses ---- */

static void compare(const uint8_t octets[16])
{
	struct sockaddr_in6 in = {.sin6_family = AF_INET6, .sin6_port = htons(25)};
	struct ring_addr a = {.len = sizeof(in)};
	char want[INET6_ADDRSTRLEN], got[PLUGIN_CLIENT_BYTES + 1];
	size_t n;

	memcpy(&in.sin6_addr, octets, 16);
	memcpy(&a.ss, &in, sizeof(in));
	inet_ntop(AF_INET6, octets, want, sizeof(want));
	n = plugin_client_text(&a, got);
	cr_assert(n < sizeof(got));
	got[n] = '\0';
	/* It still writes the compatible addresses of RFC 4291 2.5.5.1 with dots, and mapped ones
	 * with their prefix. */
	if (!strchr(want, '.'))
		cr_assert_str_eq(got, want);
	else if (strncmp(want, "::ffff:", 7) == 0)
		cr_assert_str_eq(got, want + 7);
}

Test(plugin, client_as_text)
{
	struct ring_addr a = {.len = sizeof(struct sockaddr_in)};
	struct sockaddr_in in = {.sin_family = AF_INET};
	char got[PLUGIN_CLIENT_BYTES], want[INET_ADDRSTRLEN];
	uint64_t seed = 88172645463325252u;
	uint8_t octets[16];

	for (unsigned round = 0; round < 200000; round++) {
		for (unsigned i = 0; i < 16; i++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			/* Many zeros, also within a group. */
			octets[i] = seed >> 60 < 10 ? 0 : (uint8_t)(seed >> 32);
		}
		compare(octets);
		memcpy(&in.sin_addr, octets, 4);
		memcpy(&a.ss, &in, sizeof(in));
		inet_ntop(AF_INET, octets, want, sizeof(want));
		cr_assert_eq(plugin_client_text(&a, got), strlen(want));
		cr_assert_eq(memcmp(got, want, strlen(want)), 0);
	}
	memset(octets, 0, sizeof(octets));
	compare(octets);
	memcpy(octets, "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\2\1", 16);
	compare(octets);
	memset(octets, 0xff, sizeof(octets));
	compare(octets);
	a.sa.sa_family = AF_UNIX;
	cr_expect_eq(plugin_client_text(&a, got), 5u);
	cr_expect_eq(memcmp(got, "unix:", 5), 0);
	a.sa.sa_family = AF_UNSPEC;
	cr_expect_eq(plugin_client_text(&a, got), 0u);
}

/* ---- the example ---- */

Test(plugin, the_audit_example)
{
	char path[] = "/tmp/ringpost-audit-XXXXXX", text[2048] = "";
	int fd = mkstemp(path);
	struct conf_hook *h = add_plugin("audit", built("docs/examples/audit-plugin.so"));
	struct hook_event ev;
	struct hook_tls tls = some_tls();
	const char *line;

	cr_assert(fd >= 0);
	cr_expect(refused("plugin audit: there is one option, `path`"), "%s", said);
	option(h, "path", "/no/such/directory/audit");
	cr_expect(refused("/no/such/directory/audit: No such file or directory"), "%s", said);
	options[0][0].value = path;
	begin();
	ask(HOOK_MAIL, "");
	ask(HOOK_RCPT, "c\x1b[2J\n@d.example");
	ev = make_event(HOOK_MAIL, "");
	ev.tls = &tls;
	ask_for(&seat, &ev);
	tls.verified = false;
	tls.sha256 = SPAN_NONE;
	ask_for(&seat, &ev);
	tell(HOOK_TRANSACTION);
	end();
	cr_assert(read(fd, text, sizeof(text) - 1) > 0);
	line = strstr(
		text, " sid=000000000000051d tid=000000000000071d client=192.0.2.1 from=<>\n");
	cr_assert_not_null(line, "%s", text);
	line = strstr(line, " client=192.0.2.1 to=<c?[2J?@d.example>\n");
	cr_assert_not_null(line, "%s", text);
	line = strstr(line, " client=192.0.2.1 tls=TLSv1.3 cipher=TLS_AES_128_GCM_SHA256 bits=128"
			    " cert=abcd00000000000000000000000000000000000000000000000000000000"
			    "01ef verified=<Some?One+1?\?> from=<>\n");
	cr_assert_not_null(line, "%s", text);
	line = strstr(line, " tls=TLSv1.3 cipher=TLS_AES_128_GCM_SHA256 bits=128 from=<>\n");
	cr_assert_not_null(line, "%s", text);
	cr_assert_not_null(
		strstr(line, " client=192.0.2.1 result=? bytes=1000 code=0\n"), "%s", text);
	close(fd);
	unlink(path);
}
