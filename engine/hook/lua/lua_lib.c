/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The libraries as scripts have them: lists of what is let in (all else of liblua is taken out),
 * and functions of ours in the place of those that would leave the sandbox or the budget:
 *
 * - a finalizer (`__gc`) and a message handler of xpcall() run with hooks off: neither can be had;
 * - `__close` of a coroutine that has died would, too: coroutines are not closed, but collected;
 * - a coroutine counts its own instructions, so that each resume costs a piece of the budget;
 * - load() takes text only: bytecode is not verified by Lua;
 * - patterns, and library functions that loop, cost what they do.
 *
 * Everything here runs inside a protected call and may raise.
 */
#include "engine/hook/lua/lua_int.h"

/* ---- fees ---- */

enum fee { FEE_REP, FEE_CONCAT, FEE_UNPACK, FEE_MOVE, FEE_INSERT, FEE_REMOVE, FEE_LOAD };

/* The library asks for the length again: a `__len` could tell it another one than us, and what
 * loops over that cannot be stopped. */
static lua_Integer length_of(lua_State *L, int index)
{
	if (luaL_getmetafield(L, index, "__len") != LUA_TNIL)
		luaL_error(L, "not of a table with a length of its own (__len)");
	return lua_type(L, index) == LUA_TTABLE ? luaL_len(L, index) : 0;
}

/* From the integer at `first` to the one at `last`; where there is none: 1, the table's length. */
static uint64_t range(lua_State *L, int first, int last)
{
	lua_Integer from = lua_isnoneornil(L, first) ? 1 : lua_tointeger(L, first);
	lua_Integer to =
		last == 0 || lua_isnoneornil(L, last) ? length_of(L, 1) : lua_tointeger(L, last);

	return to > from ? (uint64_t)to - (uint64_t)from : 0;
}

static uint64_t price(lua_State *L, enum fee fee)
{
	switch (fee) {
	case FEE_REP: /* also of nothing: its loop allocates nothing then */
		return (uint64_t)MAX_OF(0, lua_tointeger(L, 2));
	case FEE_CONCAT:
		return range(L, 3, 4);
	case FEE_UNPACK:
		return range(L, 2, 3);
	case FEE_MOVE:
		return range(L, 2, 3);
	case FEE_INSERT:
		return lua_gettop(L) > 2 ? range(L, 2, 0) : 0;
	case FEE_REMOVE:
		return lua_gettop(L) > 1 ? range(L, 2, 0) : 0;
	case FEE_LOAD:
		return lua_type(L, 1) == LUA_TSTRING ? lua_rawlen(L, 1) : 0;
	}
	ASSERT(false);
}

/* Upvalues: the library's function (which has none of its own), the fee. */
static int charged(lua_State *L)
{
	lua_spend(L, price(L, (enum fee)lua_tointeger(L, lua_upvalueindex(2))));
	return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

/* The function of that name in the table on top. */
static void charge(lua_State *L, const char *name, enum fee fee)
{
	lua_getfield(L, -1, name);
	lua_pushinteger(L, fee);
	lua_pushcclosure(L, charged, 2);
	lua_setfield(L, -2, name);
}

/* ---- base ---- */

/* Upvalue: the library's, with its fee. */
static int base_load(lua_State *L)
{
	if (lua_gettop(L) < 3)
		lua_settop(L, 3);
	lua_pushliteral(L, "t");
	lua_replace(L, 3);
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
	return lua_gettop(L);
}

static int base_setmetatable(lua_State *L)
{
	if (lua_type(L, 2) == LUA_TTABLE) {
		lua_pushliteral(L, "__gc");
		if (lua_rawget(L, 2) != LUA_TNIL)
			return luaL_error(L, "there are no finalizers here (__gc)");
		lua_pop(L, 1);
	}
	return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

static int base_collectgarbage(lua_State *L)
{
	const char *what = luaL_optstring(L, 1, "collect");

	if (strcmp(what, "count") != 0)
		return luaL_error(L, "the only use of collectgarbage() here is \"count\"");
	lua_pushnumber(L, (lua_Number)lua_share_of(L)->bytes / 1024);
	return 1;
}

/* ---- sort ---- */

/* Upvalue: a C function that compares, or nil: as `<` does. */
static int charged_less(lua_State *L)
{
	lua_spend(L, 1);
	if (lua_isnil(L, lua_upvalueindex(1))) {
		lua_pushboolean(L, lua_compare(L, 1, 2, LUA_OPLT));
		return 1;
	}
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	lua_call(L, 2, 1);
	return 1;
}

/* Upvalue: the library's. Where no instruction is run to compare two elements, each comparison is
 * charged by itself: of long strings it takes a while. */
static int table_sort(lua_State *L)
{
	lua_settop(L, 2);
	(void)length_of(L, 1);
	if (lua_isnil(L, 2) || lua_iscfunction(L, 2))
		lua_pushcclosure(L, charged_less, 1);
	return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

/* ---- coroutines ---- */

static int co_create(lua_State *L)
{
	lua_State *co;

	luaL_checktype(L, 1, LUA_TFUNCTION);
	co = lua_newthread(L);
	lua_count_from(co);
	lua_pushvalue(L, 1);
	lua_xmove(L, co, 1);
	return 1;
}

/* With `n` arguments on top. The number of results that are there then, or -1: the error is. */
static int resume(lua_State *L, lua_State *co, int n)
{
	int results = 0, status;

	lua_spend(L, LUA_QUANTUM);
	if (!lua_checkstack(co, n)) {
		lua_pushliteral(L, "too many arguments to resume");
		return -1;
	}
	lua_xmove(L, co, n);
	status = lua_resume(co, L, n, &results);
	if (status != LUA_OK && status != LUA_YIELD) {
		lua_xmove(co, L, 1);
		return -1;
	}
	if (!lua_checkstack(L, results + 1)) {
		lua_pop(co, results);
		lua_pushliteral(L, "too many results to resume");
		return -1;
	}
	lua_xmove(co, L, results);
	return results;
}

static int co_resume(lua_State *L)
{
	lua_State *co = lua_tothread(L, 1);
	int n;

	luaL_argexpected(L, co, 1, "coroutine");
	n = resume(L, co, lua_gettop(L) - 1);
	lua_pushboolean(L, n >= 0);
	lua_insert(L, n >= 0 ? -n - 1 : -2);
	return n >= 0 ? n + 1 : 2;
}

static int co_wrapped(lua_State *L)
{
	lua_State *co = lua_tothread(L, lua_upvalueindex(1));
	int n = resume(L, co, lua_gettop(L));

	if (n >= 0)
		return n;
	if (lua_type(L, -1) == LUA_TSTRING) {
		luaL_where(L, 1);
		lua_insert(L, -2);
		lua_concat(L, 2);
	}
	return lua_error(L);
}

static int co_wrap(lua_State *L)
{
	co_create(L);
	lua_pushcclosure(L, co_wrapped, 1);
	return 1;
}

static bool is_event(lua_State *L)
{
	const struct lua_run *r = lua_share_of(L)->current;

	return r && r->co == L;
}

/* An event's own coroutine is not for scripts: nobody but the engine goes on with it. */
static int co_yield (lua_State *L)
{
	if (is_event(L))
		return luaL_error(L, "attempt to yield from outside a coroutine");
	return lua_yield(L, lua_gettop(L));
}

static int co_running(lua_State *L)
{
	bool outside = is_event(L);

	if (outside)
		lua_pushnil(L);
	else
		outside = lua_pushthread(L) == 1;
	lua_pushboolean(L, outside);
	return 2;
}

/* ---- what there is ---- */

#define LIST_MAX 32

/* One library: what is let in as it is, and what is ours. */
struct library {
	const char *name;
	lua_CFunction open;
	const char *keep[LIST_MAX]; /* {NULL}: all */
	struct {
		const char *name;
		enum fee fee;
	} fees[8];
	const luaL_Reg *ours; /* NULL: none */
};

static const luaL_Reg our_base[] = {{"collectgarbage", base_collectgarbage}, {NULL, NULL}};
static const luaL_Reg our_coroutines[] = {{"create", co_create}, {"resume", co_resume},
	{"wrap", co_wrap}, {"yield", co_yield }, {"running", co_running}, {NULL, NULL}};

static const struct library libraries[] = {
	{LUA_GNAME, luaopen_base,
		{"_G", "_VERSION", "assert", "error", "getmetatable", "ipairs", "load", "next",
			"pairs", "pcall", "rawequal", "rawget", "rawlen", "rawset", "select",
			"setmetatable", "tonumber", "tostring", "type"},
		{{"load", FEE_LOAD}}, our_base},
	{LUA_COLIBNAME, luaopen_coroutine, {"status"}, {{NULL, FEE_REP}}, our_coroutines},
	{LUA_STRLIBNAME, luaopen_string,
		{"byte", "char", "format", "len", "lower", "pack", "packsize", "rep", "reverse",
			"sub", "unpack", "upper"},
		{{"rep", FEE_REP}}, lua_our_strings},
	{LUA_TABLIBNAME, luaopen_table,
		{"concat", "insert", "move", "pack", "remove", "sort", "unpack"},
		{{"concat", FEE_CONCAT}, {"insert", FEE_INSERT}, {"move", FEE_MOVE},
			{"remove", FEE_REMOVE}, {"unpack", FEE_UNPACK}},
		NULL},
	{LUA_MATHLIBNAME, luaopen_math, {NULL}, {{NULL, FEE_REP}}, NULL},
	{LUA_UTF8LIBNAME, luaopen_utf8, {NULL}, {{NULL, FEE_REP}}, NULL},
};

static bool listed(const struct library *lib, const char *name)
{
	for (unsigned i = 0; i < LIST_MAX && lib->keep[i]; i++)
		if (strcmp(lib->keep[i], name) == 0)
			return true;
	return lib->keep[0] == NULL;
}

/* Of the table on top. */
static void keep_only(lua_State *L, const struct library *lib)
{
	lua_pushnil(L);
	while (lua_next(L, -2)) {
		lua_pop(L, 1);
		if (listed(lib, lua_tostring(L, -1)))
			continue;
		/* A field may be cleared on the way. */
		lua_pushvalue(L, -1);
		lua_pushnil(L);
		lua_rawset(L, -4);
	}
}

/* In the place of the function `name` of the table on top: ours, with the old one as its upvalue.
 */
static void stand_before(lua_State *L, const char *name, lua_CFunction ours)
{
	lua_getfield(L, -1, name);
	lua_pushcclosure(L, ours, 1);
	lua_setfield(L, -2, name);
}

void lua_open_libs(lua_State *L)
{
	for (size_t i = 0; i < ARRAY_LEN(libraries); i++) {
		const struct library *lib = &libraries[i];

		luaL_requiref(L, lib->name, lib->open, i > 0);
		keep_only(L, lib);
		for (unsigned k = 0; k < ARRAY_LEN(lib->fees) && lib->fees[k].name; k++)
			charge(L, lib->fees[k].name, lib->fees[k].fee);
		if (lib->ours)
			luaL_setfuncs(L, lib->ours, 0);
		lua_pop(L, 1);
	}
	lua_pushglobaltable(L);
	stand_before(L, "load", base_load);
	stand_before(L, "setmetatable", base_setmetatable);
	lua_getfield(L, -1, LUA_TABLIBNAME);
	stand_before(L, "sort", table_sort);
	lua_pop(L, 2);
}
