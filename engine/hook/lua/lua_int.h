/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Between the parts of the Lua hook: lua.c (the class: calls, sleep, verdicts), lua_state.c (a
 * state: memory, budget, what is closed off, loading), lua_lib.c (library functions that are not
 * the library's), lua_api.c (the table `ringpost`), lua_event.c (what a script sees and changes).
 *
 * Lua leaves by longjmp. What may raise an error runs inside a protected call, with no lock held
 * and nothing half done; what runs outside of one is marked "never raises".
 */
#ifndef HOOK_LUA_INT_H
#define HOOK_LUA_INT_H

#include "engine/hook/hook_int.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

/* The hook counts instructions by so many: also what a coroutine costs each time it goes on, or a
 * script could have an uncounted piece of each of them. */
#define LUA_QUANTUM 100
/* Work that is no instruction counts as some. */
#define LUA_OCTETS_PER_INSTRUCTION 64

/* What hook->self is: the script as it was read and judged once. */
struct lua_script {
	char *text; /* owns */
	size_t text_bytes;
	char chunk[64]; /* "@name.lua": what messages call it */
};

struct lua_run;

/* A worker's state. */
struct lua_share {
	const struct hook *hook;
	struct hook_core *core; /* NULL while the script is being loaded */
	lua_State *main;	/* owns */
	uint32_t worker;
	uint32_t wants;			/* 1 << enum hook_point */
	int handlers[HOOK_POINT_COUNT]; /* registry references */
	size_t bytes, bytes_max;	/* of the state's memory */
	uint64_t budget, spent;		/* of this call */
	uint64_t begun_ms, until_ms;	/* the same, by hook_clock_ms() */
	const char *stopped;		/* why this call may not go on; static */
	struct lua_run *current;	/* whose coroutine runs */
	struct lua_run *idle;		/* for events to come */
	uint32_t idle_count;
	char broken[200]; /* not empty: the script could not be loaded here, every call fails */
};

/* One call of a handler, and the event object that the handler gets (this is its memory). */
struct lua_run {
	struct lua_share *share;
	struct lua_run *next_idle;
	lua_State *co; /* NULL: to be made */
	int co_ref, self_ref;
	struct hook_ask ask;	/* ask.ev NULL: over. While it sleeps: a copy, in the user value */
	struct hook_call *call; /* while it sleeps */
	struct timer timer;
	struct hook_edits *edits; /* owns */
	uint64_t body_bytes;	  /* of them */
	bool question, sleeps;
	uint64_t sleep_ms;
};

/* What the class keeps for a session. */
struct lua_own {
	int user_ref;	     /* ev.user; LUA_NOREF: none yet */
	uint64_t failed_tid; /* body() failed in this transaction */
};

static inline struct lua_share *lua_share_of(lua_State *L)
{
	return *(struct lua_share **)lua_getextraspace(L);
}

/* ---- lua.c ---- */

/* Of the session that is asked about; NULL: no room. Never raises. */
struct lua_own *lua_own_of(const struct hook *h, const struct hook_ask *ask);

/* ---- lua_state.c ---- */

/* A state with the script loaded and open() called; worker's thread, or the main thread that judges
 * the script. NULL with the reason. */
struct lua_share *lua_share_new(const struct hook *h, uint32_t worker, char *why, size_t why_max);
void lua_share_free(struct lua_share *s);
/* A call begins. Never raises. */
void lua_share_arm(struct lua_share *s);
/* False: the call has had its budget or its time, `stopped` says which. Never raises. */
bool lua_share_spend(struct lua_share *s, uint64_t instructions);
/* The same, and raises. */
void lua_spend(lua_State *L, uint64_t instructions);
void lua_count_from(lua_State *L);
/* The error at the top of a stack; valid as long as it stays there. Never raises. */
const char *lua_error_text(lua_State *L);
/* A new table with __metatable set, registered under `key` (an address); leaves it on the stack. */
void lua_new_metatable(lua_State *L, const void *key);
/* Is the value at `index` a userdata with that metatable? NULL: no. Never raises; takes two places.
 */
void *lua_as(lua_State *L, int index, const void *key);

/* ---- lua_lib.c ---- */

/* Opens the libraries, without what is closed off. May raise. */
void lua_open_libs(lua_State *L);

/* ---- lua_string.c ---- */

extern const luaL_Reg lua_our_strings[]; /* in the place of the library's */

/* ---- lua_api.c ---- */

/* Makes the table `ringpost`, and print(). May raise. */
void lua_open_api(lua_State *L);
/* What a handler returned: `n` values on top of the stack. False with the complaint: it is no
 * verdict. Never raises. */
bool lua_take_verdict(lua_State *L, int n, struct hook_verdict *v, char *why, size_t why_max);

/* ---- lua_event.c ---- */

void lua_open_events(lua_State *L);
/* Makes an event object; leaves it on the stack. May raise. */
struct lua_run *lua_push_event(lua_State *L);
/* Makes a copy of the event, for as long as the call sleeps. May raise. */
void lua_keep_event(lua_State *L, struct lua_run *r);
const char *lua_point_name(enum hook_point point); /* as handlers are called */

#endif
