/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ringpost-blast: an SMTP client that sends made-up messages as fast as it is let (closed loop), by
 * a schedule that does not wait for answers (--rate), or holds idle sessions (--idle). One thread,
 * one ring. blast_int.h has the map.
 *
 * Failures: start: see lib/rig.h. Exit 0: all messages accepted; 1: not all.
 */
#include "bench/blast/blast_int.h"

#include <errno.h>
#include <unistd.h>

__attribute__((noreturn)) static void no_memory(void)
{
	fprintf(stderr, PROGRAM ": no memory\n");
	exit(RIG_EXIT_UNAVAILABLE);
}

static void open_rig(struct blast *b)
{
	const struct rig_conf rc = {
		.program = PROGRAM,
		.connections = (uint32_t)b->client_count,
		/* a group of commands for many recipients is staged at once */
		.cells_each = CELLS_EACH + (secured(&b->opt) ? SEALED_CELLS_EACH : 0) +
			      (uint32_t)(b->opt.recipients * COMMAND_BYTES / 4096),
		.cpu = b->opt.cpu == UINT64_MAX ? -1 : (int)b->opt.cpu,
	};

	rig_open(&b->rig, &rc);
}

static void make_messages(struct blast *b)
{
	const struct blast_options *o = &b->opt;
	char run_name[17];

	snprintf(run_name, sizeof(run_name), "%08" PRIx32, (uint32_t)ring_random(b->rig.ring));
	for (unsigned i = 0; i < o->sizes.count; i++)
		if (!maker_init(&b->maker[i], o->sizes.row[i].bytes, o->hash,
			    o->run ? o->run : run_name))
			no_memory();
	if (!talk_make_group(b))
		no_memory();
}

static enum role role_of(const struct blast_options *o, uint64_t i)
{
	return i < o->slow ? ROLE_SLOW : i < o->connections ? ROLE_LOAD : ROLE_IDLE;
}

static void make_clients(struct blast *b)
{
	const struct blast_options *o = &b->opt;

	b->clients = calloc(b->client_count, sizeof(*b->clients));
	b->drips = calloc(o->slow + 1, sizeof(*b->drips));
	if (!b->clients || !b->drips)
		no_memory();
	for (unsigned i = 0; i < ROLE_COUNT; i++) {
		list_init(&b->cold[i]);
		list_init(&b->warm[i]);
	}
	for (uint64_t i = 0; i < b->client_count; i++) {
		client_init(&b->clients[i], b, role_of(o, i));
		if (i < o->slow)
			drip_init(&b->drips[i], &b->clients[i]);
	}
}

static void open_log(struct blast *b)
{
	if (b->opt.log_file && !(b->log = fopen(b->opt.log_file, "w"))) {
		fprintf(stderr, PROGRAM ": cannot write %s: %s\n", b->opt.log_file,
			strerror(errno));
		exit(RIG_EXIT_UNAVAILABLE);
	}
}

static void start(struct blast *b)
{
	const struct blast_options *o = &b->opt;

	b->idle_count = o->idle;
	b->client_count = o->connections + o->idle;
	open_rig(b);
	secure_start(b);
	make_messages(b);
	make_clients(b);
	open_log(b);
	for (unsigned i = 0; i < PART_COUNT; i++)
		tally_init(&b->tally[i]);
	b->tty = isatty(STDERR_FILENO) && !o->quiet;
	b->total = b->end_us = UINT64_MAX;
	b->began_us = b->progress_us = now_us(b);
	b->window.warm_up_us = o->warm_up_us;
	b->window.duration_us = b->window.messages = UINT64_MAX;
	if (windowed(o) && o->duration_us)
		b->window.duration_us = o->duration_us;
	if (windowed(o) && o->messages)
		b->window.messages = o->messages;
}

static void run(struct blast *b)
{
	bool stopped = false;

	for (;;) {
		load_turn(b);
		if (rig_stopped() && !stopped) {
			stopped = true;
			load_stop(b);
		}
		streams_flush(&b->rig.streams);
		if (load_over(b))
			break;
		rig_turn(&b->rig, MIN_OF(load_wake_us(b), report_wake_us(b)));
		report_progress(b);
	}
	report_progress_end(b);
}

static void finish(struct blast *b)
{
	for (uint64_t i = 0; i < b->client_count; i++)
		timer_stop(&b->rig.timers, &b->clients[i].timer);
	secure_stop(b);
	rig_close(&b->rig);
	if (b->log && fclose(b->log) != 0)
		fprintf(stderr, PROGRAM ": %s is not complete: %s\n", b->opt.log_file,
			strerror(errno));
	for (unsigned i = 0; i < b->opt.sizes.count; i++)
		maker_fini(&b->maker[i]);
	free(b->clients);
	free(b->drips);
	free(b->group);
}

int main(int argc, char **argv)
{
	static struct blast blast; /* large; lives as long as the process */
	struct blast *b = &blast;

	options_read(&b->opt, argc, argv);
	start(b);
	run(b);
	report(b);
	bool well = report_all_well(b);
	finish(b);
	return well ? 0 : 1;
}
