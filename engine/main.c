/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ringpost: arguments, and which part of the program they ask for.
 */
#include "engine/core/control.h"
#include "engine/core/doctor.h"
#include "engine/core/material.h"
#include "engine/core/privileges.h"
#include "engine/hook/hook.h"

#include <fcntl.h>
#include <getopt.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_CONFIG "/etc/ringpost/ringpost.yaml"

static const char usage_text[] =
	"usage: ringpost [run] [-c FILE]     relay mail (the default file is " DEFAULT_CONFIG ")\n"
	"       ringpost check [-c FILE]     say every error of a configuration (also -t; -T "
	"prints it in full)\n"
	"       ringpost doctor [-c FILE]    say what this machine offers and what is in the way;\n"
	"                                    with --probe, also try how the kernel behaves\n"
	"       ringpost reference           print every directive, as Markdown\n"
	"       ringpost version             (also -V)\n"
	"\n"
	"  -c FILE   configuration file; - reads standard input\n"
	"  -t        check and exit      -T   check, print the effective configuration and exit\n"
	"  -V        version             -h   this text\n"
	"\n"
	"signals: TERM drains and exits, a second TERM exits at once, QUIT drains without limit,\n"
	"         USR1 reopens the log file, HUP reads certificates anew\n"
	"exit:    0 done, 1 failed, 64 usage, 69 an address or file cannot be had, 77 the kernel "
	"refuses,\n"
	"         78 configuration\n";

enum action {
	ACT_RUN,
	ACT_CHECK,
	ACT_DUMP,
	ACT_DOCTOR,
	ACT_REFERENCE,
	ACT_VERSION,
	ACT_HELP,
	ACT_BAD
};

struct arguments {
	enum action action;
	const char *file;
	bool file_given, probe;
};

static enum action action_named(const char *word)
{
	static const struct {
		const char *word;
		enum action action;
	} actions[] = {{"run", ACT_RUN}, {"check", ACT_CHECK}, {"doctor", ACT_DOCTOR},
		{"reference", ACT_REFERENCE}, {"version", ACT_VERSION}, {"help", ACT_HELP}};

	for (size_t i = 0; i < ARRAY_LEN(actions); i++)
		if (strcmp(word, actions[i].word) == 0)
			return actions[i].action;
	fprintf(stderr, "ringpost: no such command: %s\n", word);
	return ACT_BAD;
}

static struct arguments read_arguments(int argc, char **argv)
{
	struct arguments a = {.action = ACT_RUN, .file = DEFAULT_CONFIG};
	static const struct option long_options[] = {{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'}, {"probe", no_argument, NULL, 'p'}, {0}};
	int opt;

	if (argc > 1 && argv[1][0] != '-') {
		a.action = action_named(argv[1]);
		argc--;
		argv++;
	}
	while (a.action != ACT_BAD &&
		(opt = getopt_long(argc, argv, "c:tTVh", long_options, NULL)) != -1) {
		switch (opt) {
		case 'c':
			a.file = optarg;
			a.file_given = true;
			break;
		case 't':
			a.action = ACT_CHECK;
			break;
		case 'T':
			a.action = ACT_DUMP;
			break;
		case 'p':
			a.probe = true;
			break;
		case 'V':
			a.action = ACT_VERSION;
			break;
		case 'h':
			a.action = ACT_HELP;
			break;
		default:
			a.action = ACT_BAD;
		}
	}
	if (a.probe && a.action != ACT_DOCTOR && a.action != ACT_BAD) {
		fprintf(stderr, "ringpost: --probe goes with doctor\n");
		a.action = ACT_BAD;
	}
	if (a.action != ACT_BAD && optind < argc) {
		fprintf(stderr, "ringpost: what is %s?\n", argv[optind]);
		a.action = ACT_BAD;
	}
	return a;
}

/* The files of TLS as the start reads them, and until when each certificate is good. */
static bool check_material(const struct conf *c)
{
	struct material_print print = {stderr, ""};
	struct material_teller t = {material_print, &print};
	struct tls_keys *keys;
	bool good = material_keys(c, &keys, &t);
	struct material *m = material_new(c, keys, NULL, &t);

	if (m)
		material_list(m, (int64_t)time(NULL), stdout);
	good &= m != NULL;
	material_free(m);
	if (keys)
		tls_keys_free(keys);
	return good;
}

/* Plugins judge their options themselves, so they are opened as well: by whom they would be, lest
 * their files come to belong to root. */
static int check(const struct conf *c, const char *file)
{
	struct material_print print = {stderr, "warning: "};
	bool good = check_material(c);
	struct hook_set *hooks;

	if ((c->hook_count || material_needed(c)) && !privileges_drop(c->user, stderr))
		return EXIT_DENIED;
	material_worries(c, &(struct material_teller){material_print, &print});
	hooks = hook_set_open(c, 1, stderr);
	good &= hooks != NULL;
	hook_set_close(hooks);
	if (!good)
		return EXIT_CONFIG;
	printf("%s: ok\n", file);
	return EXIT_RAN;
}

static bool start_tls(void)
{
	struct tls_error e = {0};

	privileges_no_dumps();
	if (tls_library_init(&e))
		return true;
	fprintf(stderr, "ringpost: TLS: %s\n", e.text);
	return false;
}

static int with_conf(const struct arguments *a)
{
	struct conf *c = conf_load(a->file, stderr);
	int code = EXIT_RAN;

	if (!c)
		return EXIT_CONFIG;
	if (a->action == ACT_RUN)
		code = control_run(c);
	else if (a->action == ACT_DOCTOR)
		code = doctor(c, a->probe, stdout);
	else if (a->action == ACT_DUMP)
		conf_dump(c, stdout);
	else
		code = check(c, a->file);
	conf_free(c);
	return code;
}

/* Before any thread is there, and after the last one. */
static int with_tls(const struct arguments *a)
{
	int code;

	if (!start_tls())
		return EXIT_FAILED;
	code = with_conf(a);
	tls_library_fini();
	return code;
}

/* Started with standard descriptors closed, the next open would take their numbers, and messages
 * would go into a listener or the log. */
static bool have_stdio(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

int main(int argc, char **argv)
{
	if (!have_stdio())
		return EXIT_FAILED;
	struct arguments a = read_arguments(argc, argv);

	switch (a.action) {
	case ACT_VERSION:
		printf("ringpost %s\n", RINGPOST_VERSION);
		doctor_library(stdout);
		return EXIT_RAN;
	case ACT_REFERENCE:
		conf_reference(stdout);
		return EXIT_RAN;
	case ACT_HELP:
		fputs(usage_text, stdout);
		return EXIT_RAN;
	case ACT_BAD:
		fputs(usage_text, stderr);
		return EXIT_USAGE;
	case ACT_RUN:
	case ACT_CHECK:
		return with_tls(&a);
	case ACT_DOCTOR:
		if (!a.file_given)
			return doctor(NULL, a.probe, stdout);
		return with_conf(&a);
	default:
		return with_conf(&a);
	}
}
