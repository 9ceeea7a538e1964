/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A Lua state of a worker: its memory, its budget, and the script in it.
 *
 * Memory: everything a state has comes from one allocator with a cap. Over it Lua collects its
 * garbage, and when that does not help raises a memory error in the script; the state goes on.
 *
 * Budget: a count hook on every coroutine adds up instructions for the call; allocations, patterns
 * and library functions with a loop inside add what they are worth. Beyond the budget, or when the
 * call has held its worker for LUA_CALL_MS, every further instruction raises an error, so that a
 * pcall() catches one and no more. The time is the net under the budget: comparing long strings,
 * for one, is a single instruction.
 */
#include "engine/hook/lua/lua_int.h"

#include "engine/hook/clock.h"
#include "engine/hook/file.h"

#define LUA_CALL_MS 1000
/* Nobody waits while a script is loaded, and there may be lists in it. */
#define LUA_LOAD_BUDGET 100000000u
#define LUA_LOAD_MS 20000

/* ---- memory ---- */

static void *allocate(void *arg, void *old, size_t old_bytes, size_t bytes)
{
	struct lua_share *s = arg;
	void *p;

	/* Without an old block its size is a kind of object. */
	if (!old)
		old_bytes = 0;
	if (bytes == 0) {
		free(old);
		s->bytes -= old_bytes;
		return NULL;
	}
	/* Making a block smaller must not fail. */
	if (bytes > old_bytes && bytes - old_bytes > s->bytes_max - MIN_OF(s->bytes, s->bytes_max))
		return NULL;
	p = realloc(old, bytes);
	if (!p)
		return NULL;
	s->bytes += bytes - old_bytes;
	s->spent += bytes / LUA_OCTETS_PER_INSTRUCTION;
	return p;
}

/* ---- budget ---- */

void lua_share_arm(struct lua_share *s)
{
	s->spent = 0;
	s->stopped = NULL;
	s->begun_ms = hook_clock_ms();
	s->until_ms = s->begun_ms + (s->core ? LUA_CALL_MS : LUA_LOAD_MS);
}

bool lua_share_spend(struct lua_share *s, uint64_t instructions)
{
	s->spent += MIN_OF(instructions, (uint64_t)INT64_MAX - s->spent);
	if (s->stopped)
		return false;
	if (s->spent > s->budget)
		s->stopped = "beyond its budget of instructions";
	else if (hook_clock_ms() > s->until_ms)
		s->stopped = "stopped: it held its worker for too long";
	return !s->stopped;
}

static void counted(lua_State *L, lua_Debug *ar)
{
	struct lua_share *s = lua_share_of(L);

	(void)ar;
	if (LIKELY(lua_share_spend(s, LUA_QUANTUM)))
		return;
	/* Whoever catches this error gets no further. */
	lua_sethook(L, counted, LUA_MASKCOUNT, 1);
	luaL_where(L, 0);
	lua_pushstring(L, s->stopped);
	lua_concat(L, 2);
	lua_error(L);
}

void lua_count_from(lua_State *L)
{
	lua_sethook(L, counted, LUA_MASKCOUNT, LUA_QUANTUM);
}

void lua_spend(lua_State *L, uint64_t instructions)
{
	struct lua_share *s = lua_share_of(L);

	if (LIKELY(lua_share_spend(s, instructions)))
		return;
	lua_sethook(L, counted, LUA_MASKCOUNT, 1);
	luaL_error(L, "%s", s->stopped);
}

/* ---- small things ---- */

const char *lua_error_text(lua_State *L)
{
	/* No conversion: that would allocate. */
	if (lua_type(L, -1) == LUA_TSTRING)
		return lua_tostring(L, -1);
	return "an error that is no string";
}

void lua_new_metatable(lua_State *L, const void *key)
{
	lua_createtable(L, 0, 4);
	lua_pushboolean(L, 0);
	lua_setfield(L, -2, "__metatable");
	lua_pushvalue(L, -1);
	lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

void *lua_as(lua_State *L, int index, const void *key)
{
	bool same;

	if (lua_type(L, index) != LUA_TUSERDATA || !lua_getmetatable(L, index))
		return NULL;
	lua_rawgetp(L, LUA_REGISTRYINDEX, key);
	same = lua_rawequal(L, -1, -2);
	lua_pop(L, 2);
	return same ? lua_touserdata(L, index) : NULL;
}

/* ---- loading ---- */

#define OF_MESSAGE (1u << HOOK_BODY | 1u << HOOK_END_OF_DATA)

/* Takes the handlers out of the globals. May raise. */
static void find_handlers(lua_State *L)
{
	struct lua_share *s = lua_share_of(L);

	for (unsigned p = 0; p < HOOK_POINT_COUNT; p++) {
		const char *name = lua_point_name((enum hook_point)p);
		int type = lua_getglobal(L, name);

		if (type == LUA_TFUNCTION) {
			s->handlers[p] = luaL_ref(L, LUA_REGISTRYINDEX);
			s->wants |= 1u << p;
			continue;
		}
		lua_pop(L, 1);
		if (type != LUA_TNIL)
			luaL_error(L, "`%s` is an event: it has to be a function", name);
	}
	if (s->wants == 0)
		luaL_error(L, "defines no function for any event (connect, ehlo, mail, rcpt, ...)");
	if ((s->wants & OF_MESSAGE) && s->hook->conf->mode == HOOK_STREAM)
		luaL_error(L, "`%s` needs mode: hold-end or hold-all",
			lua_point_name(s->wants & 1u << HOOK_BODY ? HOOK_BODY : HOOK_END_OF_DATA));
}

/* May raise. */
static void call_open(lua_State *L)
{
	if (lua_getglobal(L, "open") == LUA_TNIL) {
		lua_pop(L, 1);
		return;
	}
	lua_getglobal(L, "ringpost");
	lua_getfield(L, -1, "options");
	lua_remove(L, -2);
	lua_call(L, 1, 1);
	if (lua_type(L, -1) == LUA_TSTRING)
		lua_error(L);
	if (!lua_isnil(L, -1))
		luaL_error(L, "open() has to return nothing, or why it refuses");
	lua_pop(L, 1);
}

static int load(lua_State *L)
{
	const struct lua_share *s = lua_share_of(L);
	const struct lua_script *script = s->hook->self;

	lua_open_libs(L);
	lua_open_events(L);
	lua_open_api(L);
	lua_count_from(L);
	if (luaL_loadbufferx(L, script->text, script->text_bytes, script->chunk, "t") != LUA_OK)
		lua_error(L);
	lua_call(L, 0, 0);
	find_handlers(L);
	call_open(L);
	lua_gc(L, LUA_GCCOLLECT, 0);
	return 0;
}

/* "dir/" before the text when that begins with the script's name: "/dir/x.lua:1: ...". */
static void loading_failed(const struct lua_share *s, char *why, size_t why_max)
{
	const struct lua_script *script = s->hook->self;
	const char *file = s->hook->conf->file, *text = lua_error_text(s->main);
	size_t n = strlen(script->chunk) - 1;

	if (s->stopped && !strstr(text, s->stopped))
		hook_file_no(why, why_max, "%s: %s", file, s->stopped);
	else if (strncmp(text, script->chunk + 1, n) == 0 && text[n] == ':')
		hook_file_no(why, why_max, "%s%s", file, text + n);
	else
		hook_file_no(why, why_max, "%s: %s", file, text);
	for (char *c = why; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
}

struct lua_share *lua_share_new(const struct hook *h, uint32_t worker, char *why, size_t why_max)
{
	struct lua_share *s = calloc(1, sizeof(*s));

	if (!s) {
		hook_file_no(why, why_max, "no memory");
		return NULL;
	}
	s->hook = h;
	s->worker = worker;
	s->bytes_max = h->conf->memory_bytes;
	s->budget = MAX_OF(h->conf->budget, (uint64_t)LUA_LOAD_BUDGET);
	for (unsigned p = 0; p < HOOK_POINT_COUNT; p++)
		s->handlers[p] = LUA_NOREF;
	s->main = lua_newstate(allocate, s);
	if (!s->main) {
		hook_file_no(why, why_max, "no memory for a Lua state (memory: %zu)", s->bytes_max);
		free(s);
		return NULL;
	}
	*(struct lua_share **)lua_getextraspace(s->main) = s;
	lua_share_arm(s);
	lua_pushcfunction(s->main, load);
	if (lua_pcall(s->main, 0, 0, 0) == LUA_OK && !s->stopped) {
		s->budget = h->conf->budget;
		return s;
	}
	loading_failed(s, why, why_max);
	lua_share_free(s);
	return NULL;
}

void lua_share_free(struct lua_share *s)
{
	if (s->main)
		lua_close(s->main);
	ASSERT(s->bytes == 0);
	free(s);
}
