/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a script may call: the table `ringpost`. Everything but lua_take_verdict() runs inside a
 * protected call and may raise; a use that means nothing does.
 */
#include "engine/hook/lua/lua_int.h"

#include "engine/hook/ringpost.h"

#include <math.h>

#define SLEEP_MAX_S 86400.0

static const char verdict_key; /* its address: the metatable of verdicts */

/* ---- verdicts ---- */

/* What may be said with each kind: codes from `code` to code + 99, an enhanced code, a text. */
struct kind {
	const char *name;
	enum hook_verdict_kind kind;
	unsigned code; /* 0: none may be given */
	bool enhanced;
};

static const struct kind kinds[] = {
	{"reject", VERDICT_REJECT, 500, true},
	{"tempfail", VERDICT_TEMPFAIL, 400, true},
	{"drop", VERDICT_DROP, 0, true},
	{"discard", VERDICT_DISCARD, 0, false},
};

static struct hook_verdict *push_verdict(lua_State *L, enum hook_verdict_kind kind)
{
	struct hook_verdict *v = lua_newuserdatauv(L, sizeof(*v), 0);

	memset(v, 0, sizeof(*v));
	v->kind = kind;
	lua_rawgetp(L, LUA_REGISTRYINDEX, &verdict_key);
	lua_setmetatable(L, -2);
	return v;
}

static lua_Integer check_code(lua_State *L, const struct kind *k, int index)
{
	int is_integer;
	lua_Integer code = lua_tointegerx(L, index, &is_integer);

	if (k->code == 0)
		luaL_error(L, "%s: there is no choice of a code", k->name);
	if (!is_integer || code / 100 * 100 != k->code || code == 421)
		luaL_error(L, "%s: code has to be a number from %d to %d%s", k->name, k->code,
			k->code + 99, k->code == 400 ? ", and not 421" : "");
	return code;
}

static const char *check_words(lua_State *L, const struct kind *k, const char *what, int index)
{
	if (lua_type(L, index) != LUA_TSTRING)
		luaL_error(L, "%s: %s has to be a string", k->name, what);
	return lua_tostring(L, index);
}

/* The fields of the table at 1. */
static void verdict_fields(lua_State *L, const struct kind *k, struct hook_verdict *v)
{
	const char *enhanced = NULL, *text = NULL;
	lua_Integer code = 0;

	lua_pushnil(L);
	while (lua_next(L, 1)) {
		const char *field = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";

		if (strcmp(field, "code") == 0)
			code = check_code(L, k, -1);
		else if (strcmp(field, "enhanced") == 0 && k->enhanced)
			enhanced = check_words(L, k, field, -1);
		else if (strcmp(field, "text") == 0)
			text = check_words(L, k, field, -1);
		else
			luaL_error(L, "%s: there is no field `%s`", k->name, field);
		lua_pop(L, 1);
	}
	hook_verdict_words(v, (uint32_t)code, enhanced, text);
	if (enhanced && !v->enhanced[0])
		luaL_error(L, "%s: `%s` is no enhanced code for it", k->name, enhanced);
}

/* Upvalue: the index of the kind. */
static int make_verdict(lua_State *L)
{
	const struct kind *k = &kinds[lua_tointeger(L, lua_upvalueindex(1))];
	struct hook_verdict *v;

	lua_settop(L, 1);
	v = push_verdict(L, k->kind);
	if (lua_type(L, 1) == LUA_TTABLE)
		verdict_fields(L, k, v);
	else if (!lua_isnil(L, 1))
		hook_verdict_words(v, 0, NULL, check_words(L, k, "its argument", 1));
	return 1;
}

bool lua_take_verdict(lua_State *L, int n, struct hook_verdict *v, char *why, size_t why_max)
{
	const struct hook_verdict *said;

	memset(v, 0, sizeof(*v));
	if (n == 0 || (n == 1 && lua_isnil(L, -1)))
		return true;
	said = n == 1 && lua_checkstack(L, 2) ? lua_as(L, -1, &verdict_key) : NULL;
	if (said) {
		*v = *said;
		return true;
	}
	if (n == 1)
		snprintf(
			why, why_max, "what it returned is no verdict: a %s", luaL_typename(L, -1));
	else
		snprintf(why, why_max, "it returned %d values, not one verdict", n);
	return false;
}

/* ---- log ---- */

static int api_log(lua_State *L)
{
	static const char *const names[] = {"error", "warn", "info", NULL};
	static const int levels[] = {RINGPOST_LOG_ERROR, RINGPOST_LOG_WARN, RINGPOST_LOG_INFO};
	int level = levels[luaL_checkoption(L, 1, NULL, names)];

	hook_log(lua_share_of(L)->hook, level, luaL_checkstring(L, 2));
	return 0;
}

static int api_print(lua_State *L)
{
	int n = lua_gettop(L);
	luaL_Buffer b;

	luaL_buffinit(L, &b);
	for (int i = 1; i <= n; i++) {
		luaL_tolstring(L, i, NULL);
		luaL_addvalue(&b);
		if (i < n)
			luaL_addchar(&b, ' ');
	}
	luaL_pushresult(&b);
	hook_log(lua_share_of(L)->hook, RINGPOST_LOG_INFO, lua_tostring(L, -1));
	return 0;
}

/* ---- time ---- */

static int push_clock(lua_State *L, clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	lua_pushnumber(L, (lua_Number)t.tv_sec + (lua_Number)t.tv_nsec / 1e9);
	return 1;
}

static int api_now(lua_State *L)
{
	return push_clock(L, CLOCK_REALTIME);
}

static int api_monotonic(lua_State *L)
{
	return push_clock(L, CLOCK_MONOTONIC);
}

/* The event's coroutine yields to lua.c, which goes on with it when the time is over. */
static int api_sleep(lua_State *L)
{
	struct lua_run *r = lua_share_of(L)->current;
	lua_Number seconds = luaL_checknumber(L, 1);

	luaL_argcheck(L, seconds >= 0 && seconds <= SLEEP_MAX_S, 1, "out of range");
	if (!r)
		return luaL_error(L, "sleep: only in a function of an event");
	if (!r->question)
		return luaL_error(L, "sleep: nobody waits for an answer to this event");
	if (r->co != L)
		return luaL_error(L, "sleep: not in a coroutine of the script");
	if (!lua_isyieldable(L))
		return luaL_error(L, "sleep: not in a function that a library calls");
	lua_keep_event(L, r);
	r->sleeps = true;
	r->sleep_ms = (uint64_t)ceil(seconds * 1000);
	return lua_yield(L, 0);
}

/* ---- the table ---- */

static void set_integer(lua_State *L, const char *name, lua_Integer value)
{
	lua_pushinteger(L, value);
	lua_setfield(L, -2, name);
}

static void set_string(lua_State *L, const char *name, const char *value)
{
	lua_pushstring(L, value);
	lua_setfield(L, -2, name);
}

static void set_options(lua_State *L, const struct conf_hook *conf)
{
	lua_createtable(L, 0, (int)conf->option_count);
	for (uint32_t i = 0; i < conf->option_count; i++)
		set_string(L, conf->options[i].name, conf->options[i].value);
	lua_setfield(L, -2, "options");
}

void lua_open_api(lua_State *L)
{
	static const luaL_Reg functions[] = {{"log", api_log}, {"now", api_now},
		{"monotonic", api_monotonic}, {"sleep", api_sleep}, {NULL, NULL}};
	const struct lua_share *s = lua_share_of(L);

	lua_new_metatable(L, &verdict_key);
	lua_pop(L, 1);
	luaL_newlib(L, functions);
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		lua_pushinteger(L, (lua_Integer)i);
		lua_pushcclosure(L, make_verdict, 1);
		lua_setfield(L, -2, kinds[i].name);
	}
	push_verdict(L, VERDICT_PASS);
	lua_setfield(L, -2, "pass");
	set_string(L, "name", s->hook->conf->name);
	set_integer(L, "worker", s->worker);
	set_integer(L, "workers", s->hook->set->workers);
	set_options(L, s->hook->conf);
	lua_setglobal(L, "ringpost");
	lua_pushcfunction(L, api_print);
	lua_setglobal(L, "print");
}
