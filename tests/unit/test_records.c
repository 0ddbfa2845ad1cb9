/* SPDX-License-Identifier: MIT */
#include "state_fixture.h"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <mqfs/records.h>

/* What a host remembers of single copies (C9, R6), in a real file. */

#define LONG_MS 3600000

static struct mqfs_state *file;
static struct mqfs_records *records;

static void open_records(int64_t ttl_ms)
{
	file = open_state(BROKER);
	records = mqfs_records_open(file, ttl_ms);
	assert_non_null(records);
}

static void close_records(void)
{
	mqfs_records_close(records);
	mqfs_state_close(file);
}

static void reopen(int64_t ttl_ms)
{
	close_records();
	open_records(ttl_ms);
}

static int setup(void **state)
{
	if (fixture_setup(state) < 0)
		return -1;
	open_records(LONG_MS);
	return 0;
}

static int teardown(void **state)
{
	close_records();
	return fixture_teardown(state);
}

static struct mqfs_delivery *delivery_of(const char *queue, const char *id, const char *copy, const char *body)
{
	struct mqfs_message *message = unit_message(body);
	struct mqfs_delivery *delivery;

	assert_int_equal(mqfs_message_set_string(&message->message_id, id), 0);
	if (copy)
		assert_int_equal(mqfs_headers_set_string(&message->headers, "mqfs-copy", copy), 0);
	delivery = mqfs_delivery_new(message, queue);
	assert_non_null(delivery);
	return delivery;
}

static struct mqfs_delivery *named(const char *id, const char *copy)
{
	return delivery_of("jobs", id, copy, "body");
}

static int decide(struct mqfs_delivery *delivery, enum mqfs_outcome outcome, const char *error)
{
	struct mqfs_copy_name name = mqfs_copy_name(delivery);
	struct call call = {0};

	assert_int_equal(mqfs_records_decide(records, &name, outcome, error, call_done, &call), 0);
	return call_wait(&call);
}

struct finding {
	struct call call;
	enum mqfs_outcome outcome;
	char error[64];
	int64_t takes;
};

static void note_found(void *arg, int result, const struct mqfs_record *record)
{
	struct finding *finding = arg;

	finding->outcome = record->outcome;
	finding->takes = record->takes;
	snprintf(finding->error, sizeof(finding->error), "%s", record->error ? record->error : "");
	call_done(&finding->call, result, NULL);
}

static struct finding find(struct mqfs_delivery *delivery)
{
	struct finding finding = {0};

	assert_int_equal(mqfs_records_find(records, delivery, note_found, &finding), 0);
	assert_int_equal(call_wait(&finding.call), 0);
	return finding;
}

static void assert_unknown(struct mqfs_delivery *delivery)
{
	struct finding finding = find(delivery);

	assert_int_equal(finding.outcome, MQFS_OUTCOME_NONE);
	assert_int_equal(finding.takes, 0);
	mqfs_delivery_unref(delivery);
}

static int64_t takes_of(struct mqfs_delivery *delivery)
{
	return find(delivery).takes;
}

/* All rows of a table, as another process sees them. */
static int64_t rows(const char *table)
{
	char sql[64];
	sqlite3_stmt *statement;
	sqlite3 *db;
	int64_t count;

	snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s", table);
	assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
	count = sqlite3_column_int64(statement, 0);
	sqlite3_finalize(statement);
	sqlite3_close(db);
	return count;
}

static void only_the_very_copy_is_known(void **state)
{
	struct mqfs_delivery *delivery = named("id", "copy");
	struct finding finding;

	(void)state;
	assert_int_equal(decide(delivery, MQFS_OUTCOME_BURY, "exit 1"), 0);
	mqfs_records_take(records, delivery);
	finding = find(delivery);
	assert_int_equal(finding.outcome, MQFS_OUTCOME_BURY);
	assert_string_equal(finding.error, "exit 1");
	assert_int_equal(finding.takes, 1);
	assert_unknown(named("id", "another copy"));
	assert_unknown(named("id", NULL));
	assert_unknown(named("another id", "copy"));
	assert_unknown(delivery_of("other", "id", "copy", "body"));
	assert_unknown(named(NULL, "copy"));
	mqfs_delivery_unref(delivery);
}

static void a_stranger_is_known_by_its_id(void **state)
{
	struct mqfs_delivery *delivery = named("id", NULL);

	(void)state;
	assert_int_equal(decide(delivery, MQFS_OUTCOME_ACK, NULL), 0);
	assert_int_equal(find(delivery).outcome, MQFS_OUTCOME_ACK);
	assert_unknown(named("id", "copy"));
	mqfs_delivery_unref(delivery);
}

static void the_latest_outcome_counts_and_is_used_up(void **state)
{
	struct mqfs_delivery *delivery = named("id", "copy");
	struct finding finding;

	(void)state;
	assert_int_equal(decide(delivery, MQFS_OUTCOME_BURY, "exit 1"), 0);
	assert_int_equal(decide(delivery, MQFS_OUTCOME_ACK, NULL), 0);
	finding = find(delivery);
	assert_int_equal(finding.outcome, MQFS_OUTCOME_ACK);
	assert_string_equal(finding.error, "");
	mqfs_records_take(records, delivery);
	mqfs_records_forget(records, delivery);
	assert_unknown(delivery);
	assert_int_equal(rows("outcome"), 0);
	assert_int_equal(rows("take"), 0);
}

static void takes_add_up_over_restarts(void **state)
{
	struct mqfs_delivery *delivery = named("id", "copy");

	(void)state;
	for (int round = 1; round <= 3; round++) {
		mqfs_records_take(records, delivery);
		reopen(LONG_MS);
		assert_int_equal(takes_of(delivery), round);
	}
	mqfs_records_take(records, delivery);
	mqfs_records_give_back(records, delivery);
	assert_int_equal(takes_of(delivery), 3);
	mqfs_records_forget(records, delivery);
	assert_int_equal(takes_of(delivery), 0);
	mqfs_delivery_unref(delivery);
}

static void given_back_nothing_is_left(void **state)
{
	struct mqfs_delivery *delivery = named("id", "copy");

	(void)state;
	mqfs_records_take(records, delivery);
	mqfs_records_give_back(records, delivery);
	assert_unknown(delivery);
	assert_int_equal(rows("take"), 0);
}

/* What has completed survives the process, killed in the next moment. */
static void an_outcome_survives_a_kill(void **state)
{
	struct mqfs_delivery *delivery = named("id", "copy");
	int status;
	pid_t child;

	(void)state;
	close_records();
	child = fork();
	if (child == 0) {
		open_records(LONG_MS);
		if (decide(delivery, MQFS_OUTCOME_RETRY, "exit 75") == 0)
			raise(SIGKILL);
		_exit(1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	open_records(LONG_MS);
	assert_int_equal(find(delivery).outcome, MQFS_OUTCOME_RETRY);
	assert_string_equal(find(delivery).error, "exit 75");
	mqfs_delivery_unref(delivery);
}

static void mounts_of_one_host_share_them(void **state)
{
	struct mqfs_delivery *delivery = named("id", "copy");
	struct mqfs_records *mine = records;
	struct mqfs_state *mine_file = file;

	(void)state;
	assert_int_equal(decide(delivery, MQFS_OUTCOME_ACK, NULL), 0);
	open_records(LONG_MS);
	assert_int_equal(find(delivery).outcome, MQFS_OUTCOME_ACK);
	mqfs_records_forget(records, delivery);
	close_records();
	records = mine;
	file = mine_file;
	assert_unknown(delivery);
}

static void records_age_out(void **state)
{
	struct mqfs_delivery *delivery = named("id", "copy");

	(void)state;
	assert_int_equal(decide(delivery, MQFS_OUTCOME_ACK, NULL), 0);
	mqfs_records_take(records, delivery);
	reopen(1);
	assert_int_equal(find(delivery).outcome, MQFS_OUTCOME_NONE);
	for (int64_t end_ms = in_ms(ENOUGH_MS); rows("outcome") + rows("take") > 0;) {
		assert_true(mqfs_clock_monotonic_ms() < end_ms);
		usleep(10000);
	}
	reopen(LONG_MS);
	mqfs_records_take(records, delivery); /* nothing of the old one is left in it */
	assert_int_equal(takes_of(delivery), 1);
	mqfs_delivery_unref(delivery);
}

/* Without message-id: what equal messages took together in one session is one take, of that session. */
static void equal_bodies_count_by_session(void **state)
{
	struct mqfs_delivery *one = named(NULL, NULL), *two = named(NULL, NULL);
	struct mqfs_delivery *other = delivery_of("jobs", NULL, NULL, "another body");

	(void)state;
	mqfs_records_take(records, one);
	mqfs_records_take(records, two);
	assert_int_equal(takes_of(one), 0); /* this session lives */
	reopen(LONG_MS);
	assert_int_equal(takes_of(one), 1);
	assert_int_equal(takes_of(other), 0);
	mqfs_records_take(records, two);
	reopen(LONG_MS);
	assert_int_equal(takes_of(two), 2);
	mqfs_records_take(records, one);
	mqfs_records_give_back(records, one);
	reopen(LONG_MS);
	assert_int_equal(takes_of(two), 2);
	mqfs_delivery_unref(one);
	mqfs_delivery_unref(two);
	mqfs_delivery_unref(other);
}

static void one_equal_that_was_handled_clears_all(void **state)
{
	struct mqfs_delivery *delivery = named(NULL, NULL);

	(void)state;
	mqfs_records_take(records, delivery);
	reopen(LONG_MS);
	mqfs_records_take(records, delivery);
	mqfs_records_take(records, delivery);
	mqfs_records_forget(records, delivery);
	assert_int_equal(takes_of(delivery), 0);
	reopen(LONG_MS);
	assert_int_equal(takes_of(delivery), 1); /* the one that was still held */
	mqfs_delivery_unref(delivery);
}

static void odd_names_are_names(void **state)
{
	struct mqfs_delivery *odd = named("\xff'\"\n%", ""), *plain = named("\xff'\"\n%", NULL);

	(void)state;
	assert_int_equal(decide(odd, MQFS_OUTCOME_ACK, "\xff"), 0);
	assert_int_equal(find(odd).outcome, MQFS_OUTCOME_ACK);
	assert_int_equal(find(plain).outcome, MQFS_OUTCOME_ACK); /* an empty id is none */
	mqfs_delivery_unref(odd);
	mqfs_delivery_unref(plain);
}

/* Fills the file system; the file's name. */
static void fill(const char *name)
{
	static const char zeros[4096];
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	while (write(fd, zeros, sizeof(zeros)) > 0)
		;
	close(fd);
}

/* On a file system of this process's own. */
static void a_full_disk_is_told(void **state)
{
	struct mqfs_delivery *delivery = named("id", "copy");
	char filler[128];
	int r = 0;

	assert_int_equal(fixture_setup(state), 0);
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", directory, "tmpfs", 0, "size=4m") < 0) {
		mqfs_delivery_unref(delivery);
		rmdir(directory);
		skip();
	}
	open_records(LONG_MS);
	snprintf(filler, sizeof(filler), "%s/filler", directory);
	fill(filler);
	for (int i = 0; i < 1000 && r == 0; i++) /* there may be room in the log */
		r = decide(delivery, MQFS_OUTCOME_ACK, NULL);
	assert_int_equal(r, -ENOSPC);
	assert_true(find(delivery).call.done); /* reading goes on */
	unlink(filler);
	assert_int_equal(decide(delivery, MQFS_OUTCOME_BURY, NULL), 0);
	assert_int_equal(find(delivery).outcome, MQFS_OUTCOME_BURY);
	close_records();
	mqfs_delivery_unref(delivery);
	assert_int_equal(umount2(directory, MNT_DETACH), 0);
	assert_int_equal(fixture_teardown(state), 0);
}

/* A close waits for what was asked for. */
static void nothing_is_left_behind_by_a_close(void **state)
{
	struct mqfs_delivery *delivery = named("id", "copy");

	(void)state;
	for (int i = 0; i < 100; i++)
		mqfs_records_take(records, delivery);
	reopen(LONG_MS);
	assert_int_equal(takes_of(delivery), 100);
	mqfs_delivery_unref(delivery);
}

int main(void)
{
#define CASE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
	const struct CMUnitTest tests[] = {
	    CASE(only_the_very_copy_is_known),
	    CASE(a_stranger_is_known_by_its_id),
	    CASE(the_latest_outcome_counts_and_is_used_up),
	    CASE(takes_add_up_over_restarts),
	    CASE(given_back_nothing_is_left),
	    CASE(an_outcome_survives_a_kill),
	    CASE(mounts_of_one_host_share_them),
	    CASE(records_age_out),
	    CASE(equal_bodies_count_by_session),
	    CASE(one_equal_that_was_handled_clears_all),
	    CASE(odd_names_are_names),
	    CASE(nothing_is_left_behind_by_a_close),
	    cmocka_unit_test(a_full_disk_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
