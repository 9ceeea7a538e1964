/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The conformance scripts on the real kernel, and that they can fail: a wrong expectation, a far
 * side that loses, doubles or changes octets, one that never sends, one that cannot be had.
 */
#include <criterion/criterion.h>

#include "ring/probe_int.h"

#include <fcntl.h>
#include <sys/resource.h>

static const struct probe_script *script(const char *name)
{
	const struct probe_script *s;

	for (size_t i = 0; (s = probe_script(i)) != NULL; i++)
		if (strcmp(s->name, name) == 0)
			return s;
	cr_assert(false, "no script %s", name);
	return NULL;
}

static int count_fds(void)
{
	int n = 0;

	for (int i = 0; i < 4096; i++)
		n += fcntl(i, F_GETFD) >= 0;
	return n;
}

static void all_pass(uint32_t features_off)
{
	const struct probe_script *s;
	struct probe_result res;

	for (size_t i = 0; (s = probe_script(i)) != NULL; i++) {
		probe_run(s, &probe_far_loopback, features_off, &res);
		cr_expect(res.verdict != PROBE_FAILED, "%s\nexpected %s\nseen     %s", s->name,
			s->expect, res.seen);
		if (res.verdict == PROBE_SKIPPED)
			cr_expect(s->needs & ~res.features, "%s was left out", s->name);
	}
}

Test(probe, all_scripts_on_this_kernel, .timeout = 120)
{
	all_pass(0);
}

Test(probe, all_scripts_without_the_features, .timeout = 120)
{
	all_pass(UINT32_MAX);
}

Test(probe, names_are_unique_and_rows_are_whole)
{
	cr_assert_geq(probe_script_count(), 40);
	for (size_t i = 0; i < probe_script_count(); i++) {
		const struct probe_script *s = probe_script(i);

		cr_assert(s->hazard && s->shows && s->run && s->expect, "%s", s->name);
		cr_assert_lt(strlen(s->expect), PROBE_TRACE_BYTES - 1);
		cr_assert_eq(s->needs & s->off, 0, "%s", s->name);
		cr_assert_eq(script(s->name), s, "%s twice", s->name);
	}
}

Test(probe, leaves_nothing_behind)
{
	int before = count_fds();
	struct rlimit was, is;
	struct probe_result res;

	getrlimit(RLIMIT_NOFILE, &was);
	for (int i = 0; i < 3; i++) {
		probe_run(script("accept-emfile"), &probe_far_loopback, 0, &res);
		probe_run(script("splice"), &probe_far_loopback, 0, &res);
		probe_run(script("connect-cancel"), &probe_far_loopback, 0, &res);
		probe_run(script("cq-overflow"), &probe_far_loopback, 0, &res);
	}
	getrlimit(RLIMIT_NOFILE, &is);
	cr_assert_eq(count_fds(), before);
	cr_assert_eq(is.rlim_cur, was.rlim_cur);
}

/* ---- failing ---- */

Test(probe, a_wrong_expectation_is_noticed)
{
	struct probe_script s = *script("recv-data-fin");
	struct probe_result res;

	s.expect = "recv 5 more; recv ECONNRESET end";
	probe_run(&s, &probe_far_loopback, 0, &res);
	cr_assert_eq(res.verdict, PROBE_FAILED);
	cr_assert_str_eq(res.seen, "recv 5 more; recv EOF end");
	cr_assert_eq(probe_blame(&s, &probe_far_loopback, &res), 0, "no feature is to blame");
}

static void say_features(struct lab *l)
{
	lab_say(l, ring_features(l->r) & RING_FEAT_PBUF_INC ? "wrong" : "right");
}

/* What goes wrong only with a feature is that feature's fault; so is what is about it. */
Test(probe, a_feature_is_blamed)
{
	struct probe_script s = {
		.name = "made-up", .hazard = "", .run = say_features, .expect = "right"};
	struct probe_result res;

	probe_run(&s, &probe_far_loopback, 0, &res);
	if (!(res.features & RING_FEAT_PBUF_INC))
		cr_skip_test("no RING_FEAT_PBUF_INC here");
	cr_assert_eq(res.verdict, PROBE_FAILED);
	cr_assert_eq(probe_blame(&s, &probe_far_loopback, &res), RING_FEAT_PBUF_INC);
	probe_run(&s, &probe_far_loopback, RING_FEAT_PBUF_INC, &res);
	cr_assert_eq(res.verdict, PROBE_PASSED);
	s.needs = RING_FEAT_RECV_CAP;
	cr_assert_eq(probe_blame(&s, &probe_far_loopback, &res), RING_FEAT_RECV_CAP);
}

static unsigned sends;

/* The third send is not sent. */
static size_t send_loses(void *arg, int far, const void *p, size_t n)
{
	return ++sends == 3 ? n : probe_far_loopback.send(arg, far, p, n);
}

static size_t send_doubles(void *arg, int far, const void *p, size_t n)
{
	if (++sends == 3)
		(void)probe_far_loopback.send(arg, far, p, n);
	return probe_far_loopback.send(arg, far, p, n);
}

static size_t send_changes(void *arg, int far, const void *p, size_t n)
{
	uint8_t other[64];

	if (++sends != 3 || n > sizeof(other))
		return probe_far_loopback.send(arg, far, p, n);
	memcpy(other, p, n);
	other[n / 2] ^= 1;
	return probe_far_loopback.send(arg, far, other, n);
}

static size_t send_nothing(void *arg, int far, const void *p, size_t n)
{
	return n;
}

static const struct {
	size_t (*send)(void *arg, int far, const void *p, size_t n);
	const char *says;
} liars[] = {
	{send_loses, "STUCK"},
	{send_doubles, "STUCK"},
	{send_changes, "WRONG OCTETS"},
	{send_nothing, "STUCK"},
};

Test(probe, a_far_side_that_lies_is_noticed, .timeout = 60)
{
	for (size_t i = 0; i < ARRAY_LEN(liars); i++) {
		struct probe_far far = probe_far_loopback;
		struct probe_result res;

		far.send = liars[i].send;
		sends = 0;
		probe_run(script("recv-pieces"), &far, 0, &res);
		cr_expect_eq(res.verdict, PROBE_FAILED);
		cr_expect(strstr(res.seen, liars[i].says), "%s", res.seen);
	}
}

static int dial_fails(void *arg, struct ring_fd listener)
{
	return -1;
}

static bool begin_fails(void *arg, const struct probe_world *w)
{
	return false;
}

Test(probe, no_far_side_is_a_failure)
{
	struct probe_far far = probe_far_loopback;
	const struct probe_script *s;
	struct probe_result res;

	far.dial = dial_fails;
	for (size_t i = 0; (s = probe_script(i)) != NULL; i++) {
		if (strncmp(s->name, "connect", 7) == 0 || strncmp(s->name, "file", 4) == 0 ||
			strcmp(s->name, "bell") == 0 || strcmp(s->name, "deadline") == 0)
			continue;
		probe_run(s, &far, 0, &res);
		cr_expect_neq(res.verdict, PROBE_PASSED, "%s: %s", s->name, res.seen);
	}
	far.begin = begin_fails;
	probe_run(script("bell"), &far, 0, &res);
	cr_assert_eq(res.verdict, PROBE_FAILED);
}

static void no_entries(struct ring_conf *c)
{
	c->sq_entries = 0;
}

/* A ring that cannot be made is said, not asserted. */
Test(probe, no_ring_is_a_failure)
{
	struct probe_script s = *script("bell");
	struct probe_result res;

	s.conf = no_entries;
	probe_run(&s, &probe_far_loopback, 0, &res);
	cr_assert_eq(res.verdict, PROBE_FAILED);
	cr_assert(strstr(res.seen, "NO RING"), "%s", res.seen);
}
