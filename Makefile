# SPDX-License-Identifier: GPL-3.0-or-later
# ringpost: `make help` lists the targets. One non-recursive makefile; everything generated goes to build/.
# Modes (each has its own tree): release (default), debug, asan, tsan, coverage, fuzz (clang): make MODE=asan ...

MODE    ?= release
B       := build/$(MODE)
VERSION := 0.1.0

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules

# ---- what a Debian machine needs ----
BUILD_PACKAGES := gcc libc6-dev make liburing-dev libjemalloc-dev libyaml-dev liblua5.4-dev pkg-config python3 \
                  dpkg-dev autoconf automake libtool ca-certificates
# Filters that ringpost asks: milters and policy daemons, and what checks their signatures.
FILTER_PACKAGES := rspamd opendkim opendkim-tools clamav-daemon clamav-milter postgrey postfwd python3-dkim
# Other people's TLS: clients, servers, scanners. The last line: what Exim's program needs, which comes without its package (need-test).
TLS_PACKAGES   := gnutls-bin msmtp default-jre-headless ecj python3-aiosmtpd sslscan nmap \
                  libnss-wrapper libgnutls-dane0 libidn12 libdb5.3 libpcre2-8-0
TEST_PACKAGES  := $(BUILD_PACKAGES) libcriterion-dev postfix swaks libnet-ssleay-perl openssl curl ca-certificates procps iproute2 strace g++ \
                  gnuplot-nox $(FILTER_PACKAGES) $(TLS_PACKAGES)
# What the bench measures beside ringpost. Postfix not where the machine has another mail server: it would take its place.
BENCH_PACKAGES = $(BUILD_PACKAGES) openssl haproxy nginx libnginx-mod-stream libnginx-mod-mail python3-aiosmtpd python3-uvloop gnuplot-nox iproute2 util-linux \
                 $(if $(shell dpkg-query -W -f '$${Status}|$${Provides}|$${Package}\n' 2>/dev/null | grep '^install ok installed|.*mail-transport-agent' | grep -v '|postfix$$'),,postfix)
FUZZ_PACKAGES  := $(BUILD_PACKAGES) clang libclang-rt-dev
COVERAGE_PACKAGES := $(BUILD_PACKAGES) libcriterion-dev gcovr g++

# `make run` and `make test` call this first: no questions, silent when nothing is missing. The tests start what they
# need themselves, so no service may start because its package came: not now (policy-rc.d says no, 101, where nobody else
# has put one), nor when the machine starts the next time (units that came are disabled). Where there is no dpkg it is said
# what is needed, and what is missing shows by itself.
installed = { dpkg-query -W -f '$${Package} $${db:Status-Status}\n' | sed -n 's/ installed$$//p' | sort -u; }
define need
	@command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || { echo "not a Debian machine; what is needed, by its names there: $(1)"; exit 0; }; \
	miss=""; for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q ' installed' || miss="$$miss $$p"; done; \
	if [ -n "$$miss" ]; then \
		echo "installing:$$miss"; \
		as=""; [ "$$(id -u)" = 0 ] || as="sudo -n"; \
		export DEBIAN_FRONTEND=noninteractive; \
		log=$$(mktemp); was=$$($(installed)); policy=/usr/sbin/policy-rc.d; \
		if [ ! -e $$policy ]; then \
			printf '#!/bin/sh\nexit 101\n' | $$as install -m 755 /dev/stdin $$policy; \
			trap "$$as rm -f $$policy" EXIT; \
		fi; \
		{ $$as apt-get update -q && $$as env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$miss; } >$$log 2>&1 \
			|| { cat $$log; echo "could not install:$$miss"; exit 69; }; rm -f $$log; \
		came=$$(comm -13 <(echo "$$was") <($(installed)) | grep -vE '^(systemd|udev|dbus)' || true); \
		units=$$(dpkg -L $$came 2>/dev/null | sed -nE 's,.*/systemd/system/([^/]+[.](service|timer))$$,\1,p' || true); \
		[ -z "$$units" ] || ! command -v systemctl >/dev/null || $$as systemctl disable --quiet $$units 2>/dev/null || true; \
	fi
endef

# ---- the TLS library ----
# One for all modes, never instrumented; tls/wolfssl.sh makes it and says why it is not the packaged one. Asked each time:
# it touches nothing while its settings (WOLFSSL_SRC=, ...) are those of before. WOLFSSL=DIR: one that was made elsewhere.
WOLFSSL     ?= build/wolfssl
WOLFSSL_LIB := $(WOLFSSL)/lib/libwolfssl.a
build/wolfssl/lib/libwolfssl.a: FORCE
	@tls/wolfssl.sh build/wolfssl
FORCE:
.PHONY: FORCE

# ---- compiling ----
CC       ?= cc
CSTD     := -std=gnu11
WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wno-unused-parameter
ifneq ($(CI)$(WERROR),)
WARN     += -Werror
endif
HARDEN   := -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection \
            $(if $(filter x86_64,$(shell uname -m)),-fcf-protection)
LDHARDEN := -pie -Wl,-z,relro,-z,now,-z,noexecstack
LUA_CFLAGS := $(shell pkg-config --cflags lua5.4 2>/dev/null)
LUA_LIBS   := $(shell pkg-config --libs lua5.4 2>/dev/null || echo -llua5.4)
CPPFLAGS += -I. -isystem $(WOLFSSL)/include $(LUA_CFLAGS) -D_GNU_SOURCE -DRINGPOST_VERSION='"$(VERSION)"'
CFLAGS_release  := -O2 -g $(HARDEN)
CFLAGS_debug    := -O0 -g3
CFLAGS_asan     := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
CFLAGS_tsan     := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
CFLAGS_coverage := -O0 -g --coverage
# Clang calls NULL + 0 an overflow: what an empty span does, and what C allows from C2y on.
CFLAGS_fuzz     := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize=pointer-overflow -fno-sanitize-recover=all -fno-omit-frame-pointer
LDFLAGS_release := $(LDHARDEN)
LDFLAGS_asan    := -fsanitize=address,undefined
LDFLAGS_tsan    := -fsanitize=thread
LDFLAGS_coverage := --coverage
LDFLAGS_fuzz    := -fsanitize=address,undefined
ALL_CFLAGS  := $(CSTD) $(WARN) -fPIE $(CFLAGS_$(MODE)) $(CFLAGS)
ALL_LDFLAGS := $(LDFLAGS_$(MODE)) $(LDFLAGS)
# jemalloc everywhere but under the sanitizers, which bring an allocator of their own.
ifneq ($(filter asan tsan fuzz,$(MODE)),)
MALLOC_LIB :=
else
MALLOC_LIB := -ljemalloc
CPPFLAGS   += -DHAVE_JEMALLOC
endif
# The static liburing: Debian 12's shared 2.3 lacks symbols that we may need.
LIBS := -l:liburing.a -lyaml $(LUA_LIBS) $(MALLOC_LIB) -lpthread -lm

RING_SRC   := $(wildcard ring/*.c)
TLS_SRC    := $(wildcard tls/*.c)
TLS_OBJ    := $(patsubst %.c,$(B)/%.o,$(TLS_SRC))
ENGINE_SRC := $(filter-out engine/main.c,$(wildcard engine/*.c engine/*/*.c engine/*/*/*.c))
LIB_OBJ    := $(patsubst %.c,$(B)/%.o,$(RING_SRC) $(ENGINE_SRC)) $(TLS_OBJ)
BENCH_LIB  := $(patsubst %.c,$(B)/%.o,$(wildcard bench/lib/*.c))
BLAST_OBJ  := $(patsubst %.c,$(B)/%.o,$(wildcard bench/blast/*.c))
SINK_OBJ   := $(patsubst %.c,$(B)/%.o,$(wildcard bench/sink/*.c))
WIRE_OBJ   := $(patsubst %.c,$(B)/%.o,$(wildcard bench/wire/*.c))
BINS       := $(B)/ringpost $(B)/ringpost-sink $(B)/ringpost-blast $(B)/ringpost-wire
UNIT_SRC   := $(wildcard tests/unit/test_*.c)
UNIT_BIN   := $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(UNIT_SRC))

# The simulated kernel: everything above ring.h, unchanged, on tests/sim instead of io_uring.
SIM_RING   := $(addprefix ring/,conf.c listen.c slab.c timer.c stash.c inq.c mbox.c stream.c mover.c spool.c res.c) \
              $(filter-out ring/probe_far.c,$(wildcard ring/probe*.c))
SIM_ENGINE := $(wildcard engine/smtp/*.c engine/upstream/*.c engine/session/*.c engine/conf/*.c engine/obs/*.c) \
              $(wildcard engine/hook/*.c engine/hook/policy/*.c engine/hook/milter/*.c) engine/core/acceptor.c
SIM_OBJ    := $(patsubst %.c,$(B)/%.o,$(SIM_RING) $(SIM_ENGINE))
SIM_SRC    := $(wildcard tests/sim/*.c)
SIM_LIBS   := -Wl,--wrap=slab_get,--wrap=getrandom,--wrap=time,--wrap=gettimeofday -lyaml $(MALLOC_LIB) -lm
# Micro-benchmarks: the engine without core/ on a third ring, that of bench/micro.
MICRO_OBJ  := $(patsubst %.c,$(B)/%.o,$(wildcard bench/micro/*.c) $(SIM_RING) $(filter-out engine/core/%,$(ENGINE_SRC)))
# Always under the sanitizers, whatever the mode of the rest.
SIM := build/asan/ringpost-sim

# Fuzzers: libFuzzer's main() in build/fuzz; in every tree one that replays files, for `make test`.
FUZZ_NAMES := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_BIN   := $(FUZZ_NAMES:%=$(B)/tests/fuzz/fuzz_%)
REPLAY_BIN := $(FUZZ_NAMES:%=$(B)/tests/fuzz/replay-%)

# Plugins, as their authors build them: for the tests, and the example.
PLUGIN_SO  := $(patsubst tests/plugins/%.c,$(B)/tests/plugins/%.so,$(filter-out %/bad.c,$(wildcard tests/plugins/*.c))) \
              $(patsubst %,$(B)/tests/plugins/bad-%.so,abi size larger name flags unknown none event symbol link open mute) \
              $(addprefix $(B)/tests/plugins/,cxx.so decide-rcpt.so) $(B)/docs/examples/audit-plugin.so
HEADER_OK  := $(patsubst %,$(B)/tests/plugins/header-%.o,c99 c11 c++17)
TEST_BIN   := $(UNIT_BIN) $(REPLAY_BIN) $(PLUGIN_SO) $(HEADER_OK) $(B)/ringpost-micro

.PHONY: all run test check unit bench asan tsan fuzz coverage clean distclean help format deps need-build need-test

all: $(BINS)                             ## build ringpost and the programs of the bench into build/release

$(B)/%.o: %.c Makefile | $(WOLFSSL_LIB)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

$(B)/libringpost.a: $(LIB_OBJ)
	@rm -f $@
	ar rcs $@ $^

# For programs that are not made of the whole of libringpost.a.
$(B)/libtls.a: $(TLS_OBJ)
	@rm -f $@
	ar rcs $@ $^

$(TLS_OBJ): $(WOLFSSL_LIB)

$(B)/ringpost: $(B)/engine/main.o $(B)/libringpost.a $(WOLFSSL_LIB)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(B)/ringpost-sink: $(SINK_OBJ) $(BENCH_LIB) $(B)/libringpost.a $(WOLFSSL_LIB)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(B)/ringpost-blast: $(BLAST_OBJ) $(BENCH_LIB) $(B)/libringpost.a $(WOLFSSL_LIB)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(B)/ringpost-micro: $(MICRO_OBJ) $(B)/libbench.a $(B)/libtls.a $(WOLFSSL_LIB)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# No ring and no engine: what it carries is what is measured.
$(B)/ringpost-wire: $(WIRE_OBJ) $(B)/libbench.a
	$(CC) $(ALL_LDFLAGS) -o $@ $(WIRE_OBJ) $(B)/libbench.a

# An archive, so that a unit test takes in only the parts of the bench it names.
$(B)/libbench.a: $(BENCH_LIB) $(filter-out %/wire.o,$(WIRE_OBJ))
	@rm -f $@
	ar rcs $@ $^

# Criterion's allocator needs a hand under ThreadSanitizer (tests/unit/tsan_arena.c says why).
TSAN_ARENA := $(if $(filter tsan,$(MODE)),$(B)/tests/unit/tsan_arena.o)
$(B)/tests/unit/%: $(B)/tests/unit/%.o $(TSAN_ARENA) $(B)/libbench.a $(B)/libringpost.a $(WOLFSSL_LIB)
	$(CC) $(ALL_LDFLAGS) -o $@ $< $(TSAN_ARENA) $(B)/libbench.a $(B)/libringpost.a $(WOLFSSL_LIB) -lcriterion $(LIBS)

# Nothing of ringpost is linked in. A plugin that a group may write to would be refused.
SO_FLAGS   := -I. -Iengine/hook -fPIC -shared $(filter-out -pie,$(ALL_LDFLAGS))
SO_DEPS    := engine/hook/ringpost.h tests/plugins/words.h Makefile
$(B)/tests/plugins/%.so: tests/plugins/%.c $(SO_DEPS)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(SO_FLAGS) -o $@ $< -lpthread
	@chmod go-w $@
$(B)/tests/plugins/bad-%.so: tests/plugins/bad.c $(SO_DEPS)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -DBAD_$* $(SO_FLAGS) -o $@ $<
	@chmod go-w $@
$(B)/tests/plugins/decide-rcpt.so: tests/plugins/decide.c $(SO_DEPS)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) '-DDECIDES=RINGPOST_ON(RINGPOST_RCPT)' $(SO_FLAGS) -o $@ $< -lpthread
	@chmod go-w $@
$(B)/tests/plugins/%.so: tests/plugins/%.cpp $(SO_DEPS)
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -pedantic-errors -Wall -Wextra -Werror -fvisibility=hidden $(CFLAGS_$(MODE)) $(SO_FLAGS) -o $@ $<
	@chmod go-w $@
$(B)/docs/examples/%.so: docs/examples/%.c $(SO_DEPS)
	@mkdir -p $(@D)
	$(CC) -std=c99 -pedantic-errors -Wall -Wextra -Werror $(CFLAGS_$(MODE)) $(SO_FLAGS) -o $@ $< -lpthread
	@chmod go-w $@

# The public header alone, in the languages it promises to serve.
$(B)/tests/plugins/header-c++%.o: engine/hook/ringpost.h Makefile
	@mkdir -p $(@D)
	$(CXX) -std=c++$* -pedantic-errors -Wall -Wextra -Werror -x c++ -c $< -o $@
$(B)/tests/plugins/header-c%.o: engine/hook/ringpost.h Makefile
	@mkdir -p $(@D)
	$(CC) -std=c$* -pedantic-errors -Wall -Wextra -Werror -x c -c $< -o $@

$(B)/ringpost-sim: $(patsubst %.c,$(B)/%.o,$(SIM_SRC)) $(SIM_OBJ) $(B)/libtls.a $(WOLFSSL_LIB)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(SIM_LIBS)

# The fuzzer of whole worlds is linked like the simulator, the others like the engine.
FUZZ_WORLD := %world
FUZZ_SIM   := $(patsubst %.c,$(B)/%.o,$(filter-out $(addprefix tests/sim/,main.c conform.c spools.c),$(SIM_SRC))) $(SIM_OBJ)
$(filter-out $(FUZZ_WORLD),$(FUZZ_BIN)): $(B)/tests/fuzz/fuzz_%: $(B)/tests/fuzz/fuzz_%.o $(B)/libringpost.a $(WOLFSSL_LIB)
	$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS)
$(filter-out $(FUZZ_WORLD),$(REPLAY_BIN)): $(B)/tests/fuzz/replay-%: $(B)/tests/fuzz/fuzz_%.o $(B)/tests/fuzz/replay.o $(B)/libringpost.a $(WOLFSSL_LIB)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)
$(filter $(FUZZ_WORLD),$(FUZZ_BIN)): $(B)/tests/fuzz/fuzz_world.o $(FUZZ_SIM) $(B)/libtls.a $(WOLFSSL_LIB)
	$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(SIM_LIBS)
$(filter $(FUZZ_WORLD),$(REPLAY_BIN)): $(B)/tests/fuzz/fuzz_world.o $(B)/tests/fuzz/replay.o $(FUZZ_SIM) $(B)/libtls.a $(WOLFSSL_LIB)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(SIM_LIBS)

-include $(patsubst %.c,$(B)/%.d,$(wildcard tests/fuzz/*.c))
-include $(patsubst %.c,$(B)/%.d,$(SIM_SRC))
-include $(patsubst %.o,%.d,$(LIB_OBJ) $(BENCH_LIB) $(WIRE_OBJ) $(B)/engine/main.o $(SINK_OBJ) $(BLAST_OBJ) $(MICRO_OBJ)) $(UNIT_BIN:%=%.d)
.PRECIOUS: $(B)/%.o

# ---- installing what is missing ----
need-build:
	$(call need,$(BUILD_PACKAGES))
deps: need-build                         ## install the packages that building needs, and build the TLS library
	@$(MAKE) --no-print-directory -s $(WOLFSSL_LIB)
# Exim cannot be installed beside Postfix, nor where it would take the place of the machine's mail server: the program is taken
# out of the package and kept in build/ (without the rights that the package gives it; tests/interop/kit/exim.py).
EXIM := build/exim/exim4
need-test:
	$(call need,$(TEST_PACKAGES))
	@[ -x $(EXIM) ] || ! command -v apt-get >/dev/null || { \
		echo "getting: exim4-daemon-light"; mkdir -p $(dir $(EXIM)); cd $(dir $(EXIM)); log=$$(mktemp); \
		as=""; [ "$$(id -u)" = 0 ] || as="sudo -n"; \
		{ { apt-get download -q exim4-daemon-light || { $$as apt-get update -q && apt-get download -q exim4-daemon-light; }; } \
			&& dpkg-deb --fsys-tarfile exim4-daemon-light_*.deb | tar -xO ./usr/sbin/exim4 > exim4.new \
			&& chmod 755 exim4.new && mv exim4.new exim4 && rm -f exim4-daemon-light_*.deb; } >$$log 2>&1 \
			|| { cat $$log; echo "could not get Exim out of exim4-daemon-light"; exit 69; }; rm -f $$log; \
	}
need-fuzz:
	$(call need,$(FUZZ_PACKAGES))
need-coverage:
	$(call need,$(COVERAGE_PACKAGES))
need-bench: need-build
	-$(call need,$(BENCH_PACKAGES))
.PHONY: need-fuzz need-coverage need-bench

# ---- running and testing ----
run: need-build                          ## install, build, start ringpost before the embedded sink (RUN_ONCE=1: one mail, then exit)
	@$(MAKE) --no-print-directory -s all
	@BUILD=$(B) docs/examples/run.sh

unit: $(TEST_BIN)                        ## the unit tests only
	@BUILD=$(B) tests/run.sh unit

check: all $(TEST_BIN)                   ## units and the quick scripted tests: under a minute
	@BUILD=$(B) tests/run.sh unit quick

test: need-test                          ## install, build, run every test; ends with "N passed, M failed"
	@$(MAKE) --no-print-directory all $(TEST_BIN)
	@$(MAKE) --no-print-directory -s MODE=asan $(SIM)
	@BUILD=$(B) SIM=$(SIM) tests/run.sh all

asan: need-test                          ## the whole suite under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory MODE=asan asan-run
asan-run: all $(TEST_BIN) $(B)/ringpost-sim
	@BUILD=$(B) SIM=$(B)/ringpost-sim tests/run.sh all
tsan: need-test                          ## the whole suite under ThreadSanitizer
	@$(MAKE) --no-print-directory MODE=tsan tsan-run
tsan-run: all $(TEST_BIN)
	@BUILD=$(B) tests/run.sh all
.PHONY: asan-run tsan-run

sim: need-build                          ## the engine on a simulated kernel: a minute of seeded faults; SEEDS=n worlds; SEED=n: one, with a transcript
	@$(MAKE) --no-print-directory -s MODE=asan $(SIM)
	@$(SIM) --save build $(if $(SEED),--seed $(SEED),$(if $(SEEDS),--seeds $(or $(FIRST),1) $(SEEDS) --seconds 0,--tap --tapes tests/sim/tapes))
sim-mutants: need-build                  ## planted defects: the simulator must find every one
	@$(MAKE) --no-print-directory -s MODE=asan $(SIM)
	@python3 -B tests/sim/mutants.py
.PHONY: sim sim-mutants

T    ?= 60
JOBS ?= 2
fuzz: need-fuzz                          ## every fuzzer for T=60 seconds, JOBS=2 at a time (NAMES="path data": only these)
	@$(MAKE) --no-print-directory -s MODE=fuzz CC=clang fuzz-run
fuzz-run: $(FUZZ_BIN)
	@BUILD=$(B) tests/fuzz/run.sh $(T) $(JOBS) $(NAMES)

SIM_SEEDS ?= 3000
coverage: need-coverage                  ## what units and simulated worlds reach: percentages per room, lines that nothing reaches
	@$(MAKE) --no-print-directory -s MODE=coverage coverage-run
coverage-run: $(TEST_BIN) $(B)/ringpost-sim
	@find $(B) -name '*.gcda' -delete
	@BUILD=$(B) tests/run.sh unit
	@$(B)/ringpost-sim --save $(B) --seeds 1 $(SIM_SEEDS) || echo "the simulator found something: see above"
	@python3 -B tests/coverage.py --build $(B)
.PHONY: fuzz-run coverage-run

# ---- installing ringpost itself ----
# DESTDIR is where a package is put together. PLUGINDIR is a place to keep plugins, no more: the
# configuration names each by its path.
PREFIX    ?= /usr/local
LIBDIR    ?= $(PREFIX)/lib
PLUGINDIR ?= $(LIBDIR)/ringpost
install: all                             ## the program, ringpost.h and ringpost.pc to PREFIX=/usr/local (DESTDIR=...)
	install -d -m 755 $(addprefix $(DESTDIR),$(PREFIX)/bin $(PREFIX)/include $(LIBDIR)/pkgconfig $(PLUGINDIR))
	install -m 755 $(B)/ringpost $(DESTDIR)$(PREFIX)/bin/ringpost
	install -m 644 engine/hook/ringpost.h $(DESTDIR)$(PREFIX)/include/ringpost.h
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@PLUGINDIR@|$(PLUGINDIR)|' -e 's|@VERSION@|$(VERSION)|' \
		engine/hook/ringpost.pc.in > $(B)/ringpost.pc
	install -m 644 $(B)/ringpost.pc $(DESTDIR)$(LIBDIR)/pkgconfig/ringpost.pc
.PHONY: install

BENCH_SO    := $(patsubst %,$(B)/tests/plugins/%.so,observe decide-rcpt later octets)
BENCH_BUILD := $(MAKE) --no-print-directory -s all $(BENCH_SO)
bench: need-bench                        ## ringpost beside its peers: CPU per message, latency, memory; tables and pictures in build/bench; under 10 minutes
	@$(BENCH_BUILD)
	@python3 -B bench/compare --build $(B) --quick $(BENCH)
bench-full: need-bench                   ## the same with all peers and scenarios: an hour (BENCH="--rounds 5 --peers ... --scenarios ...")
	@$(BENCH_BUILD)
	@python3 -B bench/compare --build $(B) $(BENCH)
bench-check: need-bench                  ## do the peers of the bench bring whole messages to the sink? (PEERS="haproxy ..." SCENARIOS="new-1k ...")
	@$(BENCH_BUILD)
	@python3 -B bench/compare --build $(B) --check $(if $(PEERS),--peers $(PEERS)) $(if $(SCENARIOS),--scenarios $(SCENARIOS))
bench-hooks: need-build                  ## what hooks cost: CPU per message with each kind; questions that stay open (MODES="cost pending")
	@$(BENCH_BUILD)
	@python3 -B bench/hooks --build $(B) $(MODES)
bench-micro: need-build                  ## CPU time of single calls: scanner, parsers, log records, whole sessions without a kernel (MICRO="--filter scan")
	@$(MAKE) --no-print-directory -s $(B)/ringpost-micro
	@$(B)/ringpost-micro $(MICRO)
.PHONY: bench-full bench-check bench-hooks bench-micro

clean:                                   ## remove what was built, but for the TLS library
	@[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name 'wolfssl*' -exec rm -rf {} +
distclean:                               ## remove build/
	rm -rf build

format:                                  ## clang-format over the tree
	clang-format -i $$(git ls-files '*.c' '*.h')

help:                                    ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 12
