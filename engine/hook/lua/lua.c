/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A hook that is a script in Lua 5.4. The script is read once, and judged by the main thread in a
 * state that is thrown away; each worker then has a state of its own, in which all its sessions'
 * events run. Nothing is shared between workers.
 *
 * Each call of a handler runs in a coroutine, so that it can sleep: ringpost.sleep() yields to this
 * file, the session waits (hook_suspend()), a timer goes on with it. A coroutine whose handler came
 * back is used again; one that was stopped by an error, or that nobody waits for any more, is left
 * to the garbage collector: what Lua would still run in it could not be bounded.
 *
 * Failure modes: an error in the script, its budget, its memory, what it returns is no verdict: the
 * call has failed (counted, a line in the log, `on-failure`) and the state goes on; body() has
 * failed: end_of_data of the same message fails too, for the script has not seen all of it; the
 * script cannot be loaded in a worker, though it was judged well: every call fails.
 */
#include "engine/hook/lua/lua_int.h"

#include "engine/hook/clock.h"
#include "engine/hook/file.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#define SCRIPT_BYTES_MAX (16u << 20)
#define IDLE_MAX 64 /* calls that were, kept for calls to come */

/* ---- the script ---- */

static bool read_all(int fd, struct lua_script *script, const char *file, char *why, size_t why_max)
{
	struct stat st;
	ssize_t n = 0;

	if (fstat(fd, &st) != 0)
		return hook_file_no(why, why_max, "%s: %s", file, strerror(errno));
	if (st.st_size > SCRIPT_BYTES_MAX)
		return hook_file_no(why, why_max, "%s: larger than 16m", file);
	script->text = malloc((size_t)st.st_size + 1);
	if (!script->text)
		return hook_file_no(why, why_max, "no memory");
	while (script->text_bytes < (size_t)st.st_size &&
		(n = read(fd, script->text + script->text_bytes,
			 (size_t)st.st_size - script->text_bytes)) > 0)
		script->text_bytes += (size_t)n;
	if (n < 0)
		return hook_file_no(why, why_max, "%s: %s", file, strerror(errno));
	return true;
}

static void script_free(struct lua_script *script)
{
	free(script->text);
	free(script);
}

static struct lua_script *script_load(const char *file, char *why, size_t why_max)
{
	struct lua_script *script;
	const char *slash = strrchr(file, '/');
	int fd = hook_file_open(file, "a script", why, why_max);
	bool good;

	if (fd < 0)
		return NULL;
	script = calloc(1, sizeof(*script));
	good = script ? read_all(fd, script, file, why, why_max)
		      : hook_file_no(why, why_max, "no memory");
	close(fd);
	if (!good) {
		if (script)
			script_free(script);
		return NULL;
	}
	snprintf(script->chunk, sizeof(script->chunk), "@%.60s", slash ? slash + 1 : file);
	return script;
}

static bool lua_class_open(struct hook *h, char *why, size_t why_max)
{
	struct lua_script *script = script_load(h->conf->file, why, why_max);
	struct lua_share *judged;

	if (!script)
		return false;
	h->self = script;
	judged = lua_share_new(h, 0, why, why_max);
	if (!judged) {
		script_free(script);
		h->self = NULL;
		return false;
	}
	h->wants = judged->wants;
	lua_share_free(judged);
	return true;
}

static void lua_class_close(struct hook *h)
{
	script_free(h->self);
	h->self = NULL;
}

/* ---- a worker's state ---- */

static bool lua_class_begin(struct hook *h, struct hook_core *c, void **share)
{
	char why[sizeof(((struct lua_share *)0)->broken)] = "";
	struct lua_share *s = lua_share_new(h, c->worker, why, sizeof(why));

	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s)
			return false;
		s->hook = h;
		memcpy(s->broken, why, sizeof(why));
	}
	s->core = c;
	*share = s;
	return true;
}

static void lua_class_end(struct hook *h, void *share)
{
	lua_share_free(share);
}

/* ---- calls ---- */

static void wake(struct timer *t);

/* Makes what a call lacks. */
static int make_run(lua_State *L)
{
	struct lua_run **at = lua_touserdata(L, 1), *r = *at;
	lua_State *co;

	if (!r) {
		r = lua_push_event(L);
		timer_init(&r->timer, wake);
		r->self_ref = luaL_ref(L, LUA_REGISTRYINDEX);
		*at = r;
	}
	co = lua_newthread(L);
	r->co_ref = luaL_ref(L, LUA_REGISTRYINDEX);
	r->co = co;
	lua_count_from(co);
	return 0;
}

static void keep_idle(struct lua_run *r)
{
	struct lua_share *s = r->share;

	r->next_idle = s->idle;
	s->idle = r;
	s->idle_count++;
}

/* NULL: no memory. */
static struct lua_run *take_run(struct lua_share *s)
{
	struct lua_run *r = s->idle;

	if (r) {
		s->idle = r->next_idle;
		s->idle_count--;
	}
	if (r && r->co)
		return r;
	lua_settop(s->main, 0);
	lua_pushcfunction(s->main, make_run);
	lua_pushlightuserdata(s->main, &r);
	if (lua_pcall(s->main, 1, 0, 0) == LUA_OK)
		return r;
	lua_settop(s->main, 0);
	if (r)
		keep_idle(r);
	return NULL;
}

/* Nobody goes on with this coroutine any more. */
static void drop_coroutine(struct lua_run *r)
{
	luaL_unref(r->share->main, LUA_REGISTRYINDEX, r->co_ref);
	r->co_ref = LUA_NOREF;
	r->co = NULL;
}

static void put_run(struct lua_run *r)
{
	struct lua_share *s = r->share;

	ASSERT(!timer_armed(&r->timer));
	hook_edits_free(r->edits);
	r->edits = NULL;
	if (r->call) {
		lua_rawgeti(s->main, LUA_REGISTRYINDEX, r->self_ref);
		lua_pushnil(s->main);
		lua_setiuservalue(s->main, -2, 1);
		lua_pop(s->main, 1);
	}
	r->ask = (struct hook_ask){0};
	r->call = NULL;
	if (s->idle_count < IDLE_MAX) {
		keep_idle(r);
		return;
	}
	if (r->co)
		drop_coroutine(r);
	luaL_unref(s->main, LUA_REGISTRYINDEX, r->self_ref);
}

static void complain(struct lua_share *s, enum hook_point point, const char *what)
{
	hook_complain(s->core, s->hook, point, what);
}

/* ---- running ---- */

enum ran { RAN_DONE, RAN_SLEEPS, RAN_FAILED };

static void judge_time(struct lua_run *r)
{
	struct lua_share *s = r->share;
	uint64_t took_ms = hook_overrun_ms(s->begun_ms, hook_clock_ms());
	char line[64];

	if (LIKELY(took_ms == 0))
		return;
	STAT_INC(s->core->stats, hook_overruns);
	snprintf(line, sizeof(line), "held up a worker, milliseconds: %llu",
		(unsigned long long)took_ms);
	complain(s, r->ask.ev->point, line);
}

static enum ran failed(struct lua_run *r, const char *why)
{
	struct stat_table *stats = r->share->core->stats;

	STAT_INC(stats, lua_errors);
	if (r->share->stopped)
		STAT_INC(stats, lua_stopped);
	complain(r->share, r->ask.ev->point, why);
	drop_coroutine(r);
	return RAN_FAILED;
}

static enum ran finished(struct lua_run *r, int results, struct hook_verdict *v)
{
	char why[64] = "";
	bool good = !r->question || lua_take_verdict(r->co, results, v, why, sizeof(why));

	lua_settop(r->co, 0);
	if (!good)
		return failed(r, why);
	if (r->question && v->kind == VERDICT_DISCARD && r->ask.ev->point < HOOK_MAIL)
		return failed(r, "there is no message that could be discarded");
	if (r->question && v->kind == VERDICT_PASS) {
		v->edits = r->edits;
		r->edits = NULL;
	}
	return RAN_DONE;
}

static enum ran judge(struct lua_run *r, int status, int results, struct hook_verdict *v)
{
	const struct lua_share *s = r->share;

	if (status == LUA_YIELD && r->sleeps && !s->stopped) {
		lua_pop(r->co, results);
		return RAN_SLEEPS;
	}
	/* It may have caught the error that stopped it, and come so far. */
	if (status == LUA_OK)
		return s->stopped ? failed(r, s->stopped) : finished(r, results, v);
	if (status == LUA_ERRMEM)
		STAT_INC(s->core->stats, lua_memory);
	return failed(r, status == LUA_YIELD ? s->stopped : lua_error_text(r->co));
}

/* Until it returns, sleeps or fails. `arguments` are on top of its stack. */
static enum ran go_on(struct lua_run *r, int arguments, struct hook_verdict *v)
{
	struct lua_share *s = r->share;
	int results = 0, status;
	enum ran ran;

	ASSERT(!s->current);
	r->sleeps = false;
	lua_share_arm(s);
	s->current = r;
	status = lua_resume(r->co, s->main, arguments, &results);
	s->current = NULL;
	ran = judge(r, status, results, v);
	judge_time(r); /* behind what is more to say, if there is */
	return ran;
}

/* NULL: it cannot be called now. */
static struct lua_run *begin_call(struct hook *h, const struct hook_ask *ask, bool question)
{
	struct lua_share *s = hook_share(h, ask->core);
	struct lua_run *r;

	if (s->broken[0]) {
		complain(s, ask->ev->point, s->broken);
		return NULL;
	}
	r = take_run(s);
	if (!r) {
		STAT_INC(s->core->stats, lua_errors);
		STAT_INC(s->core->stats, lua_memory);
		complain(s, ask->ev->point, "no memory for a call");
		return NULL;
	}
	r->ask = *ask;
	r->question = question;
	r->body_bytes = 0;
	lua_rawgeti(r->co, LUA_REGISTRYINDEX, s->handlers[ask->ev->point]);
	lua_rawgeti(r->co, LUA_REGISTRYINDEX, r->self_ref);
	return r;
}

/* ---- sleep ---- */

static void sleep_until(struct lua_run *r)
{
	struct hook_core *c = r->share->core;

	timer_set(c->timers, &r->timer, ring_now_us(c->ring) / 1000 + r->sleep_ms);
}

/* The session may go on at once, with another question for this very hook: nothing of the call may
 * be in use any more. */
static void settle(struct lua_run *r, enum ran ran, struct hook_verdict *v)
{
	struct hook_call *call = r->call;

	call->own = NULL;
	put_run(r);
	if (ran == RAN_DONE)
		hook_settle(call, v);
	else
		hook_settle_failed(call);
}

static void wake(struct timer *t)
{
	struct lua_run *r = CONTAINER_OF(t, struct lua_run, timer);
	struct hook_verdict v = {0};
	enum ran ran = go_on(r, 0, &v);

	if (ran == RAN_SLEEPS)
		sleep_until(r);
	else
		settle(r, ran, &v);
}

static enum hook_reach suspend(struct hook *h, const struct hook_ask *ask, struct lua_run *r)
{
	struct hook_token token;

	if (!hook_suspend(h, ask, &token)) {
		failed(r, "no room for a call that sleeps");
		put_run(r);
		return REACH_FAILED;
	}
	r->call = ask->seat->call;
	r->call->own = r;
	sleep_until(r);
	return REACH_PENDING;
}

static void lua_class_forget(struct hook *h, struct hook_call *call)
{
	struct lua_run *r = call->own;

	if (!r)
		return;
	call->own = NULL;
	timer_stop(r->share->core->timers, &r->timer);
	drop_coroutine(r);
	put_run(r);
}

/* ---- sessions ---- */

struct lua_own *lua_own_of(const struct hook *h, const struct hook_ask *ask)
{
	void **at = hook_own(h, ask);
	struct lua_own *own;

	if (!at || *at)
		return at ? *at : NULL;
	own = calloc(1, sizeof(*own));
	if (own)
		own->user_ref = LUA_NOREF;
	*at = own;
	return own;
}

static void lua_class_leave(struct hook *h, struct hook_core *c, void *own)
{
	struct lua_share *s = hook_share(h, c);
	struct lua_own *o = own;

	if (s->main)
		luaL_unref(s->main, LUA_REGISTRYINDEX, o->user_ref);
	free(o);
}

/* Whose body() has failed has not seen the message that it is asked about now. */
static bool missed_some(struct hook *h, const struct hook_ask *ask)
{
	const struct lua_own *own;

	if (ask->ev->point != HOOK_END_OF_DATA || !(h->wants & 1u << HOOK_BODY))
		return false;
	own = lua_own_of(h, ask);
	return !own || own->failed_tid == ask->ev->tid;
}

static void remember_failure(struct hook *h, const struct hook_ask *ask)
{
	struct lua_own *own;

	if (ask->ev->point != HOOK_BODY)
		return;
	own = lua_own_of(h, ask);
	if (own)
		own->failed_tid = ask->ev->tid;
}

/* ---- the kind of hook ---- */

static enum hook_reach lua_class_ask(
	struct hook *h, const struct hook_ask *ask, struct hook_verdict *v)
{
	struct lua_run *r;

	if (missed_some(h, ask))
		return REACH_FAILED;
	r = begin_call(h, ask, true);
	if (!r)
		return REACH_FAILED;
	switch (go_on(r, 1, v)) {
	case RAN_SLEEPS:
		return suspend(h, ask, r);
	case RAN_FAILED:
		put_run(r);
		return REACH_FAILED;
	case RAN_DONE:
		put_run(r);
		return REACH_ANSWERED;
	}
	ASSERT(false);
}

static void lua_class_tell(struct hook *h, const struct hook_ask *ask)
{
	struct lua_run *r = begin_call(h, ask, false);
	struct hook_verdict ignored;

	if (!r || go_on(r, 1, &ignored) != RAN_DONE)
		remember_failure(h, ask);
	if (r)
		put_run(r);
}

const struct hook_class hook_lua_class = {.may_wait = true,
	.open = lua_class_open,
	.close = lua_class_close,
	.begin = lua_class_begin,
	.end = lua_class_end,
	.ask = lua_class_ask,
	.tell = lua_class_tell,
	.forget = lua_class_forget,
	.leave = lua_class_leave};
