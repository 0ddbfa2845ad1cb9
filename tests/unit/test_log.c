/* SPDX-License-Identifier: MIT */
#include "unit.h"

#define LOG_TOPIC "topic"
#include <mqfs/log.h>

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char output[8192];

/* Runs fn in a child, since the journal is looked for once a process; its standard error is in output. */
static void capture(void (*fn)(void), bool journal)
{
	int ends[2], status;
	size_t length = 0;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe(ends), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct stat st;
		char stream[64];

		dup2(ends[1], STDERR_FILENO);
		fstat(STDERR_FILENO, &st);
		snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
		         (unsigned long long)st.st_ino + !journal);
		setenv("JOURNAL_STREAM", stream, 1);
		fn();
		_exit(0);
	}
	close(ends[1]);
	while ((n = read(ends[0], output + length, sizeof(output) - 1 - length)) > 0)
		length += (size_t)n;
	output[length] = '\0';
	close(ends[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void log_some(void)
{
	log_info("hello %d", 42);
	log_error("bad");
}

static void writes_lines(void **state)
{
	(void)state;
	capture(log_some, false);
	assert_string_equal(output, "topic: hello 42\ntopic: bad\n");
}

static void prefixes_for_the_journal(void **state)
{
	(void)state;
	capture(log_some, true);
	assert_string_equal(output, "<6>topic: hello 42\n<3>topic: bad\n");
}

static void log_hostile(void)
{
	log_warning("queue %s", "a\n<0>forged\033[2J\x7f");
}

static void keeps_to_one_line(void **state)
{
	(void)state;
	capture(log_hostile, false);
	assert_string_equal(output, "topic: queue a?<0>forged?[2J?\n");
}

static void log_long(void)
{
	static char text[6000];

	memset(text, 'x', sizeof(text) - 1);
	log_info("%s", text);
	log_info("next");
}

static void cuts_long_lines(void **state)
{
	const char *newline;

	(void)state;
	capture(log_long, true);
	newline = strchr(output, '\n');
	assert_non_null(newline);
	assert_int_equal(newline - output, 2047);
	assert_string_equal(newline, "\n<6>topic: next\n");
}

static int evaluated;

static int evaluate(void)
{
	return ++evaluated;
}

static void log_at_levels(void)
{
	log_debug("%d", evaluate());
	mqfs_log_set_level(MQFS_LOG_DEBUG);
	log_debug("%d", evaluate());
	mqfs_log_set_level(MQFS_LOG_ERROR);
	log_info("unseen");
	log_warning("unseen");
	log_error("seen");
}

static void obeys_the_level(void **state)
{
	(void)state;
	assert_int_equal(mqfs_log_level(), MQFS_LOG_INFO);
	capture(log_at_levels, false);
	assert_string_equal(output, "topic: 1\ntopic: seen\n"); /* the first debug evaluated nothing */
}

static void log_errno(void)
{
	errno = ENOSPC;
	log_info("%m");
	log_info("%s", errno == ENOSPC ? "kept" : "lost");
}

static void keeps_errno(void **state)
{
	(void)state;
	capture(log_errno, false);
	assert_string_equal(output, "topic: No space left on device\ntopic: kept\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(writes_lines),      cmocka_unit_test(prefixes_for_the_journal),
	    cmocka_unit_test(keeps_to_one_line), cmocka_unit_test(cuts_long_lines),
	    cmocka_unit_test(obeys_the_level),   cmocka_unit_test(keeps_errno),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
