/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * find(), match(), gmatch() and gsub() on the bounded matcher: the same results as the library's,
 * and a step of a pattern costs as much as an instruction. All of it runs inside a protected call
 * and may raise.
 */
#include "engine/hook/lua/lua_int.h"

#include "engine/hook/lua/lua_match.h"

#define STEPS_EACH 1000 /* charged together */

static uint32_t more_steps(void *share)
{
	return lua_share_spend(share, STEPS_EACH) ? STEPS_EACH : 0;
}

static struct span check_span(lua_State *L, int index)
{
	size_t n;
	const char *p = luaL_checklstring(L, index, &n);

	return span_of(p, n);
}

static void begin_match(lua_State *L, struct match *m, struct span subject, struct span pattern)
{
	m->subject = subject;
	m->pattern = pattern;
	m->more = more_steps;
	m->arg = lua_share_of(L);
	m->left = 0;
}

/* What was not used comes back; a match that could not go on is an error. */
static bool judge_match(lua_State *L, struct match *m, enum match_res res)
{
	struct lua_share *s = lua_share_of(L);

	if (!s->stopped)
		s->spent -= m->left;
	m->left = 0;
	if (res == MATCH_BAD)
		luaL_error(L, "%s", m->problem);
	if (res == MATCH_STOPPED)
		lua_spend(L, 0);
	return res == MATCH_YES;
}

static bool take_anchor(struct span *pattern)
{
	if (pattern->n == 0 || *pattern->p != '^')
		return false;
	*pattern = span_drop(*pattern, 1);
	return true;
}

/* The i-th capture, or, of a pattern without any, all that was matched. False: it is a position,
 * and was pushed. */
static bool capture_at(
	lua_State *L, const struct match *m, uint32_t i, struct span whole, struct span *out)
{
	*out = whole;
	if (i >= m->captures) {
		if (i > 0)
			luaL_error(L, "invalid capture index %%%d", (int)i + 1);
		return true;
	}
	if (m->capture[i].n == MATCH_OPEN)
		luaL_error(L, "unfinished capture");
	if (m->capture[i].n == MATCH_POSITION) {
		lua_pushinteger(L, m->capture[i].at - m->subject.p + 1);
		return false;
	}
	*out = span_of(m->capture[i].at, (size_t)m->capture[i].n);
	return true;
}

static void push_capture(lua_State *L, const struct match *m, uint32_t i, struct span whole)
{
	struct span s;

	if (capture_at(L, m, i, whole, &s))
		lua_pushlstring(L, (const char *)s.p, s.n);
}

static int push_captures(lua_State *L, const struct match *m, struct span whole, bool none_is_all)
{
	uint32_t n = m->captures == 0 && none_is_all ? 1 : m->captures;

	luaL_checkstack(L, (int)n, "too many captures");
	for (uint32_t i = 0; i < n; i++)
		push_capture(L, m, i, whole);
	return (int)n;
}

/* The optional position at `index`, as an offset; may be beyond the end. */
static size_t start_at(lua_State *L, int index, size_t n)
{
	lua_Integer at = luaL_optinteger(L, index, 1);

	if (at > 0)
		return (size_t)at - 1;
	if (at == 0 || at < -(lua_Integer)n)
		return 0;
	return n + (size_t)at;
}

static int find_plain(lua_State *L, struct span subject, struct span what, size_t from)
{
	struct span rest = span_drop(subject, from);
	const uint8_t *at = what.n ? memmem(rest.p, rest.n, what.p, what.n) : rest.p;

	lua_spend(L, (at ? (size_t)(at - rest.p) : rest.n) / LUA_OCTETS_PER_INSTRUCTION);
	if (!at) {
		lua_pushnil(L);
		return 1;
	}
	lua_pushinteger(L, at - subject.p + 1);
	lua_pushinteger(L, at - subject.p + (lua_Integer)what.n);
	return 2;
}

static int find_or_match(lua_State *L, bool find)
{
	struct span subject = check_span(L, 1), pattern = check_span(L, 2);
	size_t from = start_at(L, 3, subject.n);
	const uint8_t *at, *end;
	struct match m;
	bool anchored;

	if (from > subject.n) {
		lua_pushnil(L);
		return 1;
	}
	if (find && (lua_toboolean(L, 4) || match_is_plain(pattern)))
		return find_plain(L, subject, pattern, from);
	anchored = take_anchor(&pattern);
	at = subject.p + from;
	begin_match(L, &m, subject, pattern);
	if (!judge_match(L, &m, match_from(&m, anchored, &at, &end))) {
		lua_pushnil(L);
		return 1;
	}
	if (!find)
		return push_captures(L, &m, span_of(at, (size_t)(end - at)), true);
	lua_pushinteger(L, at - subject.p + 1);
	lua_pushinteger(L, end - subject.p);
	return 2 + push_captures(L, &m, SPAN_NONE, false);
}

static int str_find(lua_State *L)
{
	return find_or_match(L, true);
}

static int str_match(lua_State *L)
{
	return find_or_match(L, false);
}

/* Upvalues: subject, pattern, where to go on, where the last match ended (-1: none). */
static int gmatch_next(lua_State *L)
{
	struct span subject = check_span(L, lua_upvalueindex(1));
	lua_Integer last = lua_tointeger(L, lua_upvalueindex(4));
	const uint8_t *at = subject.p + lua_tointeger(L, lua_upvalueindex(3)), *end;
	struct match m;

	begin_match(L, &m, subject, check_span(L, lua_upvalueindex(2)));
	for (; at <= subject.p + subject.n; at++) {
		if (!judge_match(L, &m, match_from(&m, false, &at, &end)))
			return 0;
		if (end - subject.p == last)
			continue;
		for (int i = 3; i <= 4; i++) {
			lua_pushinteger(L, end - subject.p);
			lua_replace(L, lua_upvalueindex(i));
		}
		return push_captures(L, &m, span_of(at, (size_t)(end - at)), true);
	}
	return 0;
}

static int str_gmatch(lua_State *L)
{
	struct span subject = check_span(L, 1);
	size_t from;

	check_span(L, 2);
	from = start_at(L, 3, subject.n);
	lua_settop(L, 2);
	lua_pushinteger(L, (lua_Integer)MIN_OF(from, subject.n + 1));
	lua_pushinteger(L, -1);
	lua_pushcclosure(L, gmatch_next, 4);
	return 1;
}

/* ---- gsub ---- */

static void add_text(lua_State *L, const struct match *m, struct span whole, luaL_Buffer *b)
{
	size_t n;
	const char *text = lua_tolstring(L, 3, &n), *end = text + n, *percent;
	struct span s;

	for (; (percent = memchr(text, '%', (size_t)(end - text))); text = percent + 2) {
		char c = percent + 1 < end ? percent[1] : '\0';

		luaL_addlstring(b, text, (size_t)(percent - text));
		if (c == '%')
			luaL_addchar(b, '%');
		else if (c == '0')
			luaL_addlstring(b, (const char *)whole.p, whole.n);
		else if (c < '1' || c > '9')
			luaL_error(L, "invalid use of '%%' in replacement string");
		else if (capture_at(L, m, (uint32_t)(c - '1'), whole, &s))
			luaL_addlstring(b, (const char *)s.p, s.n);
		else
			luaL_addvalue(b);
	}
	luaL_addlstring(b, text, (size_t)(end - text));
}

static void add_replacement(lua_State *L, const struct match *m, struct span whole, luaL_Buffer *b)
{
	switch (lua_type(L, 3)) {
	case LUA_TFUNCTION:
		lua_pushvalue(L, 3);
		lua_call(L, push_captures(L, m, whole, true), 1);
		break;
	case LUA_TTABLE:
		push_capture(L, m, 0, whole);
		lua_gettable(L, 3);
		break;
	default:
		add_text(L, m, whole, b);
		return;
	}
	if (!lua_toboolean(L, -1)) {
		lua_pop(L, 1);
		luaL_addlstring(b, (const char *)whole.p, whole.n);
	} else if (!lua_isstring(L, -1)) {
		luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
	} else {
		luaL_addvalue(b);
	}
}

static int str_gsub(lua_State *L)
{
	struct span subject = check_span(L, 1), pattern = check_span(L, 2);
	const uint8_t *at = subject.p, *stop = subject.p + subject.n, *last = NULL, *end;
	lua_Integer count = 0, most = luaL_optinteger(L, 4, (lua_Integer)subject.n + 1);
	int type = lua_type(L, 3);
	bool anchored = take_anchor(&pattern);
	struct match m;
	luaL_Buffer b;

	luaL_argexpected(L,
		type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TFUNCTION ||
			type == LUA_TTABLE,
		3, "string/function/table");
	luaL_buffinit(L, &b);
	begin_match(L, &m, subject, pattern);
	while (count < most) {
		if (judge_match(L, &m, match_at(&m, at, &end)) && end != last) {
			count++;
			add_replacement(L, &m, span_of(at, (size_t)(end - at)), &b);
			at = last = end;
		} else if (at < stop) {
			luaL_addchar(&b, (char)*at);
			at++;
		} else {
			break;
		}
		if (anchored)
			break;
	}
	luaL_addlstring(&b, (const char *)at, (size_t)(stop - at));
	luaL_pushresult(&b);
	lua_pushinteger(L, count);
	return 2;
}

const luaL_Reg lua_our_strings[] = {{"find", str_find}, {"match", str_match},
	{"gmatch", str_gmatch}, {"gsub", str_gsub}, {NULL, NULL}};
