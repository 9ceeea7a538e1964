/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Time and randomness of wolfSSL in the simulator, by the linker's --wrap: a world is what its tape
 * says and nothing else. The clock is that of the world that runs; the octets come from a generator
 * that begins anew with each world. Outside of worlds the clock is the machine's, but randomness
 * never is: what is made once for the whole process (contexts, ticket keys) is the same in each.
 *
 * Only calls from objects of this program and its static libraries are caught: the sanitizers' and
 * the C library's own are not.
 */
#include "tests/sim/virtual.h"

#include <string.h>
#include <sys/random.h>
#include <sys/time.h>
#include <time.h>

#define EPOCH_S 1893456000 /* 2030-01-01 */

static const struct sim_kernel *clock_of;
static uint64_t state = 0x9e3779b97f4a7c15u;

ssize_t __wrap_getrandom(void *p, size_t n, unsigned flags);
time_t __real_time(time_t *t);
time_t __wrap_time(time_t *t);
int __real_gettimeofday(struct timeval *tv, void *tz);
int __wrap_gettimeofday(struct timeval *tv, void *tz);

void virtual_begin(const struct sim_kernel *k)
{
	clock_of = k;
	state = 0x853c49e6748fea9bu;
}

void virtual_end(void)
{
	clock_of = NULL;
}

ssize_t __wrap_getrandom(void *p, size_t n, unsigned flags)
{
	uint8_t *to = p;

	for (size_t i = 0; i < n; i++) {
		state ^= state >> 12;
		state ^= state << 25;
		state ^= state >> 27;
		to[i] = (uint8_t)((state * 0x2545f4914f6cdd1du) >> 56);
	}
	return (ssize_t)n;
}

time_t __wrap_time(time_t *t)
{
	time_t now;

	if (!clock_of)
		return __real_time(t);
	now = (time_t)(EPOCH_S + sim_now_us(clock_of) / 1000000);
	if (t)
		*t = now;
	return now;
}

int __wrap_gettimeofday(struct timeval *tv, void *tz)
{
	uint64_t us;

	if (!clock_of)
		return __real_gettimeofday(tv, tz);
	us = sim_now_us(clock_of);
	tv->tv_sec = (time_t)(EPOCH_S + us / 1000000);
	tv->tv_usec = (suseconds_t)(us % 1000000);
	return 0;
}
