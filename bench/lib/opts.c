/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The option table at work. Failure: opts_die() says which option, what was given, and leaves
 * with 64.
 */
#include "bench/lib/opts.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>

#define OPTS_MAX 96
#define HELP_COLUMN 28
#define HELP_WIDTH 96

void opts_die(const struct opts *o, const char *format, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", o->program);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fprintf(stderr, " (%s --help)\n", o->program);
	exit(OPT_EXIT_USAGE);
}

bool opt_count(const char *text, uint64_t *out)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*out = strtoull(text, &end, 10);
	return errno == 0 && *end == '\0';
}

bool opt_size(const char *text, uint64_t *out)
{
	static const char units[] = "kmg";
	const char *unit;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*out = strtoull(text, &end, 10);
	if (errno != 0)
		return false;
	if (*end == '\0')
		return true;
	unit = strchr(units, ascii_lower((uint8_t)*end));
	if (!unit || end[1] != '\0')
		return false;
	unsigned shift = 10 * (unsigned)(unit - units + 1);
	if (*out > UINT64_MAX >> shift)
		return false;
	*out <<= shift;
	return true;
}

bool opt_seconds(const char *text, uint64_t *out_us)
{
	static const struct {
		const char *unit;
		double us;
	} units[] = {{"", 1e6}, {"s", 1e6}, {"ms", 1e3}, {"us", 1}, {"m", 60e6}, {"h", 3600e6}};
	char *end;

	if ((*text < '0' || *text > '9') && *text != '.')
		return false;
	double v = strtod(text, &end);
	for (size_t i = 0; i < ARRAY_LEN(units); i++) {
		if (strcmp(end, units[i].unit) != 0)
			continue;
		v *= units[i].us;
		if (!(v >= 0 && v < 1e16))
			return false;
		*out_us = (uint64_t)(v + 0.5);
		return true;
	}
	return false;
}

/* Prints help text wrapped at HELP_WIDTH, continuing under HELP_COLUMN. */
static void print_wrapped(const char *text)
{
	size_t column = HELP_COLUMN;

	while (*text) {
		size_t word = strcspn(text, " ");

		if (column > HELP_COLUMN && column + 1 + word > HELP_WIDTH) {
			printf("\n%*s", HELP_COLUMN, "");
			column = HELP_COLUMN;
		} else if (column > HELP_COLUMN) {
			putchar(' ');
			column++;
		}
		printf("%.*s", (int)word, text);
		column += word;
		text += word + strspn(text + word, " ");
	}
	putchar('\n');
}

static void print_row(const struct opt *row)
{
	if (row->kind == OPT_GROUP) {
		printf("\n%s\n", row->name);
		return;
	}
	int n = printf("  --%s%s%s", row->name, row->arg ? " " : "", row->arg ? row->arg : "");
	if (n >= HELP_COLUMN) {
		printf("\n%*s", HELP_COLUMN, "");
		n = HELP_COLUMN;
	} else {
		printf("%*s", HELP_COLUMN - n, "");
	}
	print_wrapped(row->help);
}

static void print_help(const struct opts *o)
{
	printf("Usage: %s %s\n\n%s\n", o->program, o->usage, o->about);
	for (size_t i = 0; i < o->count; i++)
		print_row(&o->rows[i]);
	printf("\nOther\n  --help%*sthis text\n  --version%*sthe version\n", HELP_COLUMN - 8, "",
		HELP_COLUMN - 11, "");
	if (o->examples)
		printf("\nExamples\n%s", o->examples);
}

static bool in_bounds(const struct opt *row, double v)
{
	return (row->min == 0 && row->max == 0) || (v >= row->min && v <= row->max);
}

static bool read_number(const struct opt *row, const char *arg, uint64_t *to)
{
	uint64_t v = 0;
	bool good = row->kind == OPT_SIZE      ? opt_size(arg, &v)
		    : row->kind == OPT_SECONDS ? opt_seconds(arg, &v)
					       : opt_count(arg, &v);

	if (!good || !in_bounds(row, row->kind == OPT_SECONDS ? (double)v / 1e6 : (double)v))
		return false;
	*to = v;
	return true;
}

static bool read_real(const struct opt *row, const char *arg, double *to)
{
	char *end;
	double v = strtod(arg, &end);

	if (end == arg || *end != '\0' || !in_bounds(row, v) || v != v)
		return false;
	*to = v;
	return true;
}

static bool read_value(const struct opts *o, const struct opt *row, const char *arg)
{
	void *to = (char *)o->ctx + row->at;

	switch (row->kind) {
	case OPT_FLAG:
	case OPT_UNFLAG:
		*(bool *)to = row->kind == OPT_FLAG;
		return true;
	case OPT_COUNT:
	case OPT_SIZE:
	case OPT_SECONDS:
	case OPT_MILLIS:
		return read_number(row, arg, to);
	case OPT_REAL:
		return read_real(row, arg, to);
	case OPT_TEXT:
		*(const char **)to = arg;
		return true;
	case OPT_CALL:
		return row->call(o->ctx, row, arg);
	case OPT_GROUP:
		break;
	}
	return false;
}

/* getopt's table: val is the row's number + 1000; --help and --version come behind the rows. */
static void long_options(const struct opts *o, struct option *longs)
{
	size_t n = 0;

	ASSERT(o->count + 3 <= OPTS_MAX);
	for (size_t i = 0; i < o->count; i++) {
		if (o->rows[i].kind == OPT_GROUP)
			continue;
		longs[n++] = (struct option){o->rows[i].name,
			o->rows[i].arg ? required_argument : no_argument, NULL, 1000 + (int)i};
	}
	longs[n++] = (struct option){"help", no_argument, NULL, 'h'};
	longs[n++] = (struct option){"version", no_argument, NULL, 'V'};
	longs[n] = (struct option){NULL, 0, NULL, 0};
}

void opts_read(const struct opts *o, int argc, char **argv)
{
	struct option longs[OPTS_MAX];
	int c;

	long_options(o, longs);
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":hV", longs, NULL)) != -1) {
		if (c == 'h') {
			print_help(o);
			exit(0);
		}
		if (c == 'V') {
			printf("%s %s\n", o->program, RINGPOST_VERSION);
			exit(0);
		}
		if (c == ':')
			opts_die(o, "%s needs a value", argv[optind - 1]);
		if (c < 1000)
			opts_die(o, "unknown option %s", argv[optind - 1]);
		const struct opt *row = &o->rows[c - 1000];
		if (!read_value(o, row, optarg))
			opts_die(o, "--%s %s: not a valid %s", row->name, optarg ? optarg : "",
				row->arg ? row->arg : "value");
	}
	if (optind < argc)
		opts_die(o, "unexpected argument \"%s\"", argv[optind]);
}
