/* SPDX-License-Identifier: MIT */
#include "consumer_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

#include <sqlite3.h>

#include <mqfs/records.h>
#include <mqfs/state.h>

/* The window and what outlives it (C9, R6), in a real state file. A new consumer stands for a new process. */

#define ENOUGH_MS 20000

static char directory[64];
static struct mqfs_state *file;

/* Waits for what the state's thread brings. */
#define EVENTUALLY(condition)                                                                                          \
	do {                                                                                                           \
		int64_t end_ms = mqfs_clock_monotonic_ms() + ENOUGH_MS;                                                \
		while (!(condition)) {                                                                                 \
			assert_true(mqfs_clock_monotonic_ms() < end_ms);                                               \
			usleep(1000);                                                                                  \
		}                                                                                                      \
	} while (0)

static void open_file(void)
{
	char *error = NULL;

	if (mqfs_state_open(directory, "amqp://host/", &file, &error) < 0)
		fail_msg("%s", error);
	records = mqfs_records_open(file, 3600000);
	assert_non_null(records);
}

static void begin(void **state)
{
	assert_int_equal(setup(state), 0);
	fake.sink->prepared(fake.sink_arg, 0, NULL);
}

/* The process ends: the broker is away, so that nothing it still wants is done. */
static void end(void **state)
{
	teardown(state);
	mqfs_records_close(records);
	mqfs_state_close(file);
}

static void restart(void **state)
{
	end(state);
	open_file();
	begin(state);
}

static int setup_all(void **state)
{
	strcpy(directory, "/tmp/mqfs-unit-XXXXXX");
	if (!mkdtemp(directory))
		return -1;
	open_file();
	begin(state);
	return 0;
}

static int teardown_all(void **state)
{
	char name[512];
	struct dirent *entry;
	DIR *dir;

	end(state);
	dir = opendir(directory);
	while (dir && (entry = readdir(dir))) {
		snprintf(name, sizeof(name), "%s/%s", directory, entry->d_name);
		unlink(name);
	}
	closedir(dir);
	return rmdir(directory);
}

struct finding {
	atomic_int done;
	enum mqfs_outcome outcome;
	int64_t takes;
};

static void note_found(void *arg, int result, const struct mqfs_record *record)
{
	struct finding *finding = arg;

	assert_int_equal(result, 0);
	finding->outcome = record->outcome;
	finding->takes = record->takes;
	atomic_store(&finding->done, 1);
}

/* All that was asked for before has been done by then. */
static struct finding find(const char *id, const char *copy)
{
	struct mqfs_delivery *delivery = mqfs_delivery_new(message_with(id, copy), "jobs");
	struct finding finding = {0};

	assert_non_null(delivery);
	assert_int_equal(mqfs_records_find(records, delivery, note_found, &finding), 0);
	EVENTUALLY(atomic_load(&finding.done));
	mqfs_delivery_unref(delivery);
	return finding;
}

struct kept {
	atomic_int times;
	int result;
};

static void note_kept(void *arg, int result, const char *reason)
{
	struct kept *kept = arg;

	(void)reason;
	kept->result = result;
	atomic_fetch_add(&kept->times, 1);
}

static int settle_durably(struct mqfs_delivery *delivery, enum mqfs_settlement how)
{
	struct kept kept = {0};
	int result = mqfs_consumer_settle_durably(consumer, delivery, MQFS_DELIVERY_CLAIMED, how, note_kept, &kept);

	if (result != 1)
		return result;
	EVENTUALLY(atomic_load(&kept.times));
	return kept.result;
}

static struct mqfs_delivery *lost_claim(void)
{
	struct mqfs_delivery *delivery;

	deliver("id", "copy", false, 1, 7);
	delivery = claim();
	lose(1);
	return delivery;
}

static void an_outcome_is_applied_by_the_next_process(void **state)
{
	struct mqfs_delivery *delivery = lost_claim();
	struct mqfs_history history;

	assert_int_equal(mqfs_consumer_set_error(consumer, delivery, "exit 1", 6), 0);
	assert_int_equal(settle_durably(delivery, MQFS_SETTLE_BURY), 0);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 0);
	assert_int_equal(counters.dead_lettered, 1);
	mqfs_delivery_unref(delivery);
	restart(state);
	deliver("id", "copy", true, 1, 1);
	EVENTUALLY(fake.settled == 1);
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 0);
	assert_asked(0, MQFS_VERB_MOVE, 1, 1);
	assert_int_equal(fake.settles[0].place, MQFS_PLACE_DEAD);
	mqfs_history_read(fake.settles[0].copy, &history);
	assert_string_equal(history.error, "exit 1");
	assert_string_equal(history.dead_reason, "rejected");
	assert_int_equal(history.attempts, 1);
	complete(0, 0, NULL);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_NONE); /* used up */
	deliver("id", "copy", true, 1, 2);
	EVENTUALLY(listed(MQFS_DELIVERY_PENDING) == 1);
}

static void an_outcome_stays_until_it_is_done(void **state)
{
	struct mqfs_delivery *delivery = lost_claim();

	(void)state;
	assert_int_equal(settle_durably(delivery, MQFS_SETTLE_ACK), 0);
	mqfs_delivery_unref(delivery);
	deliver("id", "copy", true, 2, 1);
	EVENTUALLY(fake.settled == 1);
	lose(2);
	complete(0, -ESTALE, NULL);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_ACK);
	deliver("id", "copy", true, 3, 1);
	EVENTUALLY(fake.settled == 2);
	assert_asked(1, MQFS_VERB_ACK, 3, 1);
	complete(1, 0, NULL);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_NONE);
}

static void an_outcome_in_flight_is_written_down(void **state)
{
	struct mqfs_delivery *delivery;

	deliver("id", "copy", false, 1, 7);
	delivery = claim();
	assert_int_equal(settle_durably(delivery, MQFS_SETTLE_ACK), 0);
	lose(1);
	complete(0, -ESTALE, NULL);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_ACK);
	mqfs_delivery_unref(delivery);
	restart(state);
	deliver("id", "copy", true, 1, 1);
	EVENTUALLY(fake.settled == 1);
	assert_asked(0, MQFS_VERB_ACK, 1, 1);
}

/* A broker doesn't say that it has an acknowledgement. */
static void an_ack_that_was_sent_is_written_down(void **state)
{
	struct mqfs_delivery *delivery;

	deliver("id", "copy", false, 1, 7);
	deliver("other id", NULL, false, 2, 8);
	for (size_t i = 0; i < 2; i++) {
		delivery = claim();
		assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
		complete(i, 0, NULL);
		mqfs_delivery_unref(delivery);
	}
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_NONE);
	lose(1);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_ACK);
	assert_int_equal(find("other id", NULL).outcome, MQFS_OUTCOME_NONE); /* its connection lives */
	lose(2);
	assert_int_equal(find("other id", NULL).outcome, MQFS_OUTCOME_ACK);
	restart(state);
	deliver("id", "copy", true, 1, 1);
	EVENTUALLY(fake.settled == 1);
	assert_asked(0, MQFS_VERB_ACK, 1, 1);
}

static void what_was_given_back_is_not_told(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 7);
	delivery = claim();
	assert_int_equal(settle(delivery, MQFS_SETTLE_RELEASE), 0);
	complete(0, 0, NULL);
	lose(1);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_NONE);
	mqfs_delivery_unref(delivery);
}

/* The copy in retry/ is safe: all that the original needs is an ack. */
static void a_move_that_is_half_done_becomes_an_ack(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 7);
	delivery = claim();
	assert_int_equal(settle(delivery, MQFS_SETTLE_RETRY), 0);
	complete(0, MQFS_MOVED_STALE, NULL);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_ACK);
	mqfs_delivery_unref(delivery);
}

static void a_redelivery_may_overtake_the_disk(void **state)
{
	struct mqfs_delivery *delivery = lost_claim();
	struct kept kept = {0};

	(void)state;
	assert_int_equal(
	    mqfs_consumer_settle_durably(consumer, delivery, MQFS_DELIVERY_CLAIMED, MQFS_SETTLE_ACK, note_kept, &kept),
	    1);
	deliver("id", "copy", true, 2, 1);
	EVENTUALLY(fake.settled == 1);
	EVENTUALLY(atomic_load(&kept.times) == 1);
	assert_int_equal(kept.result, 0);
	assert_asked(0, MQFS_VERB_ACK, 2, 1);
	complete(0, 0, NULL);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_NONE);
	mqfs_delivery_unref(delivery);
}

/* Another process's lock keeps the state file from being written. */
static sqlite3 *lock_file(void)
{
	sqlite3 *db;

	assert_int_equal(sqlite3_open(mqfs_state_path(file), &db), SQLITE_OK);
	sqlite3_busy_timeout(db, ENOUGH_MS);
	assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	return db;
}

static void a_settlement_may_overtake_the_disk(void **state)
{
	struct mqfs_delivery *delivery = lost_claim();
	struct kept kept = {0};
	sqlite3 *locked = lock_file();

	(void)state;
	assert_int_equal(
	    mqfs_consumer_settle_durably(consumer, delivery, MQFS_DELIVERY_CLAIMED, MQFS_SETTLE_ACK, note_kept, &kept),
	    1);
	deliver("id", "copy", true, 2, 1);
	assert_asked(0, MQFS_VERB_ACK, 2, 1);
	assert_int_equal(kept.times, 0);
	complete(0, 0, NULL);
	assert_int_equal(kept.times, 1);
	assert_int_equal(kept.result, 0);
	sqlite3_close(locked);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_NONE);
	assert_int_equal(kept.times, 1);
	mqfs_delivery_unref(delivery);
}

/* The outcome is on the disk, could not be done, and the user thinks better of it. */
static void what_is_given_back_has_no_older_outcome(void **state)
{
	struct mqfs_delivery *delivery = lost_claim();
	sqlite3 *locked = lock_file();
	struct kept kept = {0};

	assert_int_equal(
	    mqfs_consumer_settle_durably(consumer, delivery, MQFS_DELIVERY_CLAIMED, MQFS_SETTLE_ACK, note_kept, &kept),
	    1);
	deliver("id", "copy", true, 2, 1);
	sqlite3_close(locked);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_ACK);
	complete(0, -ETIMEDOUT, NULL);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
	assert_int_equal(settle(delivery, MQFS_SETTLE_BURY), 0);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_BURY);
	complete(1, -ETIMEDOUT, NULL);
	assert_int_equal(settle(delivery, MQFS_SETTLE_RELEASE), 0);
	assert_asked(2, MQFS_VERB_RELEASE, 2, 1);
	complete(2, 0, NULL);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_NONE);
	assert_int_equal(kept.times, 1);
	mqfs_delivery_unref(delivery);
	restart(state);
	deliver("id", "copy", true, 1, 1);
	EVENTUALLY(listed(MQFS_DELIVERY_PENDING) == 1);
}

static void a_forward_of_a_lost_claim_is_published_apart(void **state)
{
	struct mqfs_delivery *delivery = lost_claim();
	struct outcome outcome = {0};

	(void)state;
	assert_int_equal(
	    mqfs_consumer_forward(consumer, delivery, MQFS_DELIVERY_CLAIMED, "other", -1, MQFS_NEVER, note, &outcome),
	    0);
	assert_int_equal(fake.published, 1);
	complete_publish(-EHOSTDOWN);
	assert_int_equal(outcome.result, -EHOSTDOWN);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
	assert_int_equal(
	    mqfs_consumer_forward(consumer, delivery, MQFS_DELIVERY_CLAIMED, "other", -1, MQFS_NEVER, note, &outcome),
	    0);
	complete_publish(0);
	assert_int_equal(outcome.result, 0);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 0);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_ACK);
	mqfs_delivery_unref(delivery);
}

static void a_claim_that_expires_detached_is_a_failure(void **state)
{
	struct mqfs_delivery *delivery = lost_claim();

	(void)state;
	tick_in(settings.claim_timeout_ms + 1000);
	assert_int_equal(find("id", "copy").outcome, MQFS_OUTCOME_RETRY);
	mqfs_delivery_unref(delivery);
}

static void a_take_is_recorded_when_it_lasts(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 1);
	deliver("waits", "copy 2", false, 1, 2);
	delivery = claim();
	tick_in(400);
	assert_int_equal(find("id", "copy").takes, 0);
	assert_true(tick_in(400) <= mqfs_clock_monotonic_ms() + 500);
	tick_in(600);
	tick_in(700);
	assert_int_equal(find("id", "copy").takes, 1);
	assert_int_equal(find("waits", "copy 2").takes, 0);
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	complete(0, 0, NULL);
	assert_int_equal(find("id", "copy").takes, 0);
	mqfs_delivery_unref(delivery);
}

static void a_claim_given_back_is_not_counted(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	tick_in(600);
	assert_int_equal(find("id", "copy").takes, 1);
	assert_int_equal(settle(delivery, MQFS_SETTLE_RELEASE), 0);
	complete(0, 0, NULL);
	assert_int_equal(find("id", "copy").takes, 0);
	mqfs_delivery_unref(delivery);
}

/* Where failures have no place, giving back is all that can be done, and still counts (R1). */
static void an_abandoned_claim_counts_without_places_for_failures(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	fake.sink->prepared(fake.sink_arg, -EACCES, "refused");
	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	assert_int_equal(settle(delivery, MQFS_SETTLE_ABANDON), 0);
	assert_asked(0, MQFS_VERB_RELEASE, 1, 1);
	complete(0, 0, NULL);
	assert_int_equal(find("id", "copy").takes, 1);
	mqfs_delivery_unref(delivery);
}

static struct mqfs_delivery *redelivered_claim(void)
{
	deliver("id", "copy", true, 1, 1);
	EVENTUALLY(listed(MQFS_DELIVERY_PENDING) == 1);
	return claim();
}

/* The end of a process that is killed: what the records hear in an orderly end is undone. */
static void die(void **state, struct mqfs_delivery *delivery, int64_t takes)
{
	restart(state);
	while (find("id", "copy").takes < takes)
		mqfs_records_take(records, delivery);
	mqfs_delivery_unref(delivery);
}

static void a_killer_is_buried_unseen(void **state)
{
	struct mqfs_delivery *delivery;
	struct mqfs_history history;

	for (int64_t round = 1; round <= 8; round++) {
		delivery = redelivered_claim();
		assert_int_equal(delivery->takes, round - 1);
		assert_int_equal(find("id", "copy").takes,
		                 round); /* at once: it is redelivered, and the process young */
		die(state, delivery, round);
	}
	deliver("id", "copy", true, 1, 1);
	EVENTUALLY(fake.settled == 1);
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 0);
	assert_asked(0, MQFS_VERB_MOVE, 1, 1);
	assert_int_equal(fake.settles[0].place, MQFS_PLACE_DEAD);
	mqfs_history_read(fake.settles[0].copy, &history);
	assert_int_equal(history.attempts, 8);
	assert_string_equal(history.dead_reason, "max-attempts");
	assert_string_equal(history.error, "taken 8 times and never settled (the reader, mqfs or the host died)");
	complete(0, 0, NULL);
	assert_int_equal(find("id", "copy").takes, 0);
}

static void takes_count_as_failed_attempts(void **state)
{
	struct mqfs_delivery *delivery = redelivered_claim();
	struct mqfs_history history;

	die(state, delivery, 2);
	delivery = redelivered_claim();
	assert_int_equal(settle(delivery, MQFS_SETTLE_RETRY), 0);
	assert_asked(0, MQFS_VERB_MOVE, 1, 1);
	mqfs_history_read(fake.settles[0].copy, &history);
	assert_int_equal(history.attempts, 3); /* two and this one: its own take isn't counted beside it */
	complete(0, 0, NULL);
	assert_int_equal(find("id", "copy").takes, 0);
	mqfs_delivery_unref(delivery);
}

/* Where it can't be buried it is listed: what else could be done with it? */
static void a_killer_without_dead_letters_is_listed(void **state)
{
	struct mqfs_delivery *delivery = redelivered_claim();

	die(state, delivery, 9);
	fake.sink->prepared(fake.sink_arg, -EACCES, "refused");
	deliver("id", "copy", true, 1, 1);
	EVENTUALLY(listed(MQFS_DELIVERY_PENDING) == 1);
	assert_int_equal(fake.settled, 0);
}

/* What is being looked up belongs to the window: it is lost, given back and counted with the rest. */
static void what_is_looked_up_can_be_lost(void **state)
{
	(void)state;
	deliver("id", "copy", true, 1, 1);
	lose(1);
	find("id", "copy");
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 0);
	deliver("id", "copy", true, 2, 1);
	EVENTUALLY(listed(MQFS_DELIVERY_PENDING) == 1);
}

struct look {
	struct mqfs_waiter waiter; /* first: a waiter of ours is a look */
	atomic_int done;
};

static void note_look(struct mqfs_waiter *waiter, int result, struct mqfs_delivery *delivery)
{
	(void)result;
	(void)delivery;
	atomic_store(&((struct look *)waiter)->done, 1);
}

static void a_first_look_waits_for_what_is_looked_up(void **state)
{
	struct look look = {.waiter.done = note_look};

	(void)state;
	deliver("id", "copy", true, 1, 1);
	fake.sink->drained(fake.sink_arg);
	if (mqfs_consumer_wait_stocked(consumer, &look.waiter) == 0)
		EVENTUALLY((tick_in(0), atomic_load(&look.done)));
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 1);
}

static void the_older_is_claimed_first_though_looked_up(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("older", "copy", true, 1, 1);
	deliver("younger", "copy 2", false, 1, 2);
	EVENTUALLY(listed(MQFS_DELIVERY_PENDING) == 2);
	delivery = claim();
	assert_string_equal(delivery->message->message_id, "older");
	mqfs_delivery_unref(delivery);
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
static void a_full_disk_leaves_the_claim(void **state)
{
	struct mqfs_delivery *delivery;
	char filler[128], id[32];
	int r = 0;

	strcpy(directory, "/tmp/mqfs-unit-XXXXXX");
	assert_non_null(mkdtemp(directory));
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", directory, "tmpfs", 0, "size=4m") < 0) {
		rmdir(directory);
		skip();
	}
	open_file();
	begin(state);
	snprintf(filler, sizeof(filler), "%s/filler", directory);
	fill(filler);
	for (int i = 1; i < 1000 && r == 0; i++) { /* there may be room in the log */
		snprintf(id, sizeof(id), "id %d", i);
		deliver(id, "copy", false, (uint64_t)i, 1);
		delivery = claim();
		lose((uint64_t)i);
		r = settle_durably(delivery, MQFS_SETTLE_ACK);
		if (r == 0)
			mqfs_delivery_unref(delivery);
	}
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
	unlink(filler);
	assert_int_equal(settle_durably(delivery, MQFS_SETTLE_ACK), 0);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 0);
	mqfs_delivery_unref(delivery);
	end(state);
	assert_int_equal(umount2(directory, MNT_DETACH), 0);
	assert_int_equal(rmdir(directory), 0);
}

int main(void)
{
#define CASE(function) cmocka_unit_test_setup_teardown(function, setup_all, teardown_all)
	const struct CMUnitTest tests[] = {
	    CASE(an_outcome_is_applied_by_the_next_process),
	    CASE(an_outcome_stays_until_it_is_done),
	    CASE(an_outcome_in_flight_is_written_down),
	    CASE(an_ack_that_was_sent_is_written_down),
	    CASE(what_was_given_back_is_not_told),
	    CASE(a_move_that_is_half_done_becomes_an_ack),
	    CASE(a_redelivery_may_overtake_the_disk),
	    CASE(a_settlement_may_overtake_the_disk),
	    CASE(what_is_given_back_has_no_older_outcome),
	    CASE(a_forward_of_a_lost_claim_is_published_apart),
	    CASE(a_claim_that_expires_detached_is_a_failure),
	    CASE(a_take_is_recorded_when_it_lasts),
	    CASE(a_claim_given_back_is_not_counted),
	    CASE(an_abandoned_claim_counts_without_places_for_failures),
	    CASE(a_killer_is_buried_unseen),
	    CASE(takes_count_as_failed_attempts),
	    CASE(a_killer_without_dead_letters_is_listed),
	    CASE(what_is_looked_up_can_be_lost),
	    CASE(a_first_look_waits_for_what_is_looked_up),
	    CASE(the_older_is_claimed_first_though_looked_up),
	    cmocka_unit_test(a_full_disk_leaves_the_claim),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
