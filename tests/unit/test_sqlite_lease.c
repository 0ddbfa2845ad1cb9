/* SPDX-License-Identifier: MIT */
#include "sqlite_fixture.h"

/*
 * Two mounts on one file. One has a long lease, which it renews seldom; the other looks after the dead
 * often. A lease that ends is made by hand, since nobody stops a thread of this process.
 */

static struct mqfs_backend *one, *two;

static int setup(void **state)
{
	if (fixture_setup(state) < 0)
		return -1;
	one = open_store(3000);
	two = open_store(300);
	return declare(one, "jobs");
}

static int teardown(void **state)
{
	mqfs_backend_close(one);
	mqfs_backend_close(two);
	return fixture_teardown(state);
}

static void publish_texts(size_t count)
{
	char text[16];

	for (size_t i = 0; i < count; i++) {
		snprintf(text, sizeof(text), "%zu", i);
		assert_int_equal(publish(one, "jobs", unit_message(text)), 0);
	}
}

/* lost counts from 1 on: what was handed out has a generation above 0. */
static void what_a_dead_mount_held_comes_back(void **state)
{
	struct collector first = {0}, second = {0};

	(void)state;
	publish_texts(3);
	mqfs_consume(one, "jobs", 2, &collector_sink, &first);
	assert_true(WAIT_UNTIL(first.count == 2, ENOUGH_MS));
	mqfs_consume(two, "jobs", 16, &collector_sink, &second);
	assert_true(WAIT_UNTIL(second.count == 1 && second.drained > 0, ENOUGH_MS));
	assert_true(has_body(second.got[0], "2"));
	assert_false(second.got[0]->redelivered);
	assert_int_equal(depths(two, "jobs").consumers, 2);

	sql("UPDATE mounts SET lease_until = 0 WHERE id = (SELECT min(id) FROM mounts)");
	assert_true(WAIT_UNTIL(second.count == 3, ENOUGH_MS));
	for (size_t i = 1; i < 3; i++) {
		assert_true(has_body(second.got[i], i == 1 ? "0" : "1"));
		assert_true(second.got[i]->redelivered);
		assert_int_equal(second.got[i]->delivery_count, 1);
	}
	/* The first one has them still, and can do no harm with them. */
	assert_int_equal(settle(one, first.got[0], MQFS_VERB_ACK), -ESTALE);
	assert_int_equal(settle(one, first.got[1], MQFS_VERB_RELEASE), -ESTALE);
	assert_int_equal(settle(two, second.got[1], MQFS_VERB_ACK), 0);
	assert_int_equal(settle(one, first.got[0], MQFS_VERB_ACK), -ESTALE);
	/* When it notices, it says so, and takes part again. */
	assert_true(WAIT_UNTIL(first.lost >= first.got[1]->generation, ENOUGH_MS));
	publish_texts(1);
	assert_true(WAIT_UNTIL(first.count + second.count > 5, ENOUGH_MS));
	collector_end(&first, one, "jobs");
	collector_end(&second, two, "jobs");
}

/* What it holds outlives a cancel; who consumes again is told what was lost meanwhile, before it comes again. */
static void a_lease_that_ends_between_two_consumers_is_told(void **state)
{
	struct collector first = {0}, second = {0}, witness = {0};
	struct call cancelled = {0};

	(void)state;
	assert_int_equal(declare(one, "others"), 0);
	assert_int_equal(publish(one, "others", unit_message("other")), 0);
	publish_texts(1);
	mqfs_consume(one, "others", 1, &collector_sink, &witness);
	mqfs_consume(one, "jobs", 1, &collector_sink, &first);
	assert_true(WAIT_UNTIL(first.count == 1 && witness.count == 1, ENOUGH_MS));
	mqfs_cancel(one, "jobs", call_done, &cancelled);
	assert_int_equal(call_wait(&cancelled), 0);
	mqfs_consume(two, "jobs", 1, &collector_sink, &second);
	assert_true(WAIT_UNTIL(second.drained > 0, ENOUGH_MS));
	sql("UPDATE mounts SET lease_until = 0 WHERE id = (SELECT min(id) FROM mounts)");
	assert_true(WAIT_UNTIL(second.count == 1 && witness.lost > 0, ENOUGH_MS));
	first.prepared = 0;
	mqfs_consume(one, "jobs", 1, &collector_sink, &first);
	assert_true(WAIT_UNTIL(first.prepared == 1 && first.drained > 0, ENOUGH_MS));
	assert_int_equal(first.lost, first.got[0]->generation);
	collector_end(&witness, one, "others");
	collector_end(&first, one, "jobs");
	collector_end(&second, two, "jobs");
}

static void a_lease_that_nobody_ended_goes_on(void **state)
{
	struct collector first = {0};

	(void)state;
	publish_texts(1);
	mqfs_consume(one, "jobs", 1, &collector_sink, &first);
	assert_true(WAIT_UNTIL(first.count == 1, ENOUGH_MS));
	sql("UPDATE mounts SET lease_until = 0");
	assert_int_equal(settle(one, first.got[0], MQFS_VERB_ACK), 0);
	usleep(1500 * 1000); /* past a renewal */
	assert_int_equal(first.lost, 0);
	collector_end(&first, one, "jobs");
}

static void a_lease_of_another_boot_is_over(void **state)
{
	struct collector first = {0}, second = {0};

	(void)state;
	publish_texts(1);
	mqfs_consume(one, "jobs", 1, &collector_sink, &first);
	assert_true(WAIT_UNTIL(first.count == 1, ENOUGH_MS));
	sql("UPDATE mounts SET boot = 'the one before'");
	mqfs_consume(two, "jobs", 1, &collector_sink, &second);
	assert_true(WAIT_UNTIL(second.count == 1, ENOUGH_MS));
	assert_int_equal(settle(one, first.got[0], MQFS_VERB_ACK), -ESTALE);
	assert_int_equal(settle(two, second.got[0], MQFS_VERB_ACK), 0);
	collector_end(&first, one, "jobs");
	collector_end(&second, two, "jobs");
}

static void a_close_gives_back_at_once(void **state)
{
	struct collector first = {0}, second = {0};

	(void)state;
	publish_texts(2);
	mqfs_consume(one, "jobs", 2, &collector_sink, &first);
	assert_true(WAIT_UNTIL(first.count == 2, ENOUGH_MS));
	mqfs_backend_close(one);
	assert_int_equal(sql_integer("SELECT count(*) FROM mounts"), 0);
	assert_int_equal(sql_integer("SELECT count(*) FROM consumers"), 0);
	assert_int_equal(sql_integer("SELECT ready FROM queues"), 2);
	mqfs_consume(two, "jobs", 2, &collector_sink, &second);
	assert_true(WAIT_UNTIL(second.count == 2, ENOUGH_MS));
	assert_true(second.got[0]->redelivered);
	assert_int_equal(second.got[0]->delivery_count, 0);
	one = open_store(3000);
	collector_end(&first, one, "jobs");
	collector_end(&second, two, "jobs");
}

/* Nothing is kept of a mount that neither consumes nor holds anything. */
static void a_mount_without_work_has_no_lease(void **state)
{
	struct collector first = {0};
	struct call cancelled = {0};

	(void)state;
	publish_texts(1);
	assert_int_equal(sql_integer("SELECT count(*) FROM mounts"), 0);
	mqfs_consume(one, "jobs", 1, &collector_sink, &first);
	assert_true(WAIT_UNTIL(first.count == 1, ENOUGH_MS));
	mqfs_cancel(one, "jobs", call_done, &cancelled);
	assert_int_equal(call_wait(&cancelled), 0);
	assert_int_equal(sql_integer("SELECT count(*) FROM mounts"), 1);
	assert_int_equal(depths(two, "jobs").consumers, 0);
	assert_int_equal(settle(one, first.got[0], MQFS_VERB_ACK), 0);
	usleep(300 * 1000);
	assert_int_equal(sql_integer("SELECT count(*) FROM mounts"), 0);
	collector_end(&first, one, "jobs");
}

static void another_mounts_message_is_noticed_soon(void **state)
{
	struct collector second = {0};
	int64_t begin_ms;

	(void)state;
	mqfs_consume(two, "jobs", 1, &collector_sink, &second);
	assert_true(WAIT_UNTIL(second.drained == 1, ENOUGH_MS));
	begin_ms = mqfs_clock_monotonic_ms();
	publish_texts(1);
	assert_true(WAIT_UNTIL(second.count == 1, ENOUGH_MS));
	assert_true(mqfs_clock_monotonic_ms() - begin_ms < 3000);
	collector_end(&second, two, "jobs");
}

static void a_queue_that_another_mount_consumes_stays(void **state)
{
	struct collector first = {0};
	struct call call = {0};

	(void)state;
	mqfs_consume(one, "jobs", 1, &collector_sink, &first);
	assert_true(WAIT_UNTIL(first.drained == 1, ENOUGH_MS));
	mqfs_queue_delete(two, "jobs", false, in_ms(ENOUGH_MS), call_done, &call);
	assert_int_equal(call_wait(&call), -EBUSY);
	call.done = false;
	mqfs_queue_delete(one, "jobs", false, in_ms(ENOUGH_MS), call_done, &call);
	assert_int_equal(call_wait(&call), 0);
	assert_true(WAIT_UNTIL(first.ended == -ENOENT, ENOUGH_MS));
	collector_end(&first, one, "jobs");
}

int main(void)
{
#define LEASE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	static const struct CMUnitTest tests[] = {
	    LEASE_TEST(what_a_dead_mount_held_comes_back),
	    LEASE_TEST(a_lease_that_ends_between_two_consumers_is_told),
	    LEASE_TEST(a_lease_that_nobody_ended_goes_on),
	    LEASE_TEST(a_lease_of_another_boot_is_over),
	    LEASE_TEST(a_close_gives_back_at_once),
	    LEASE_TEST(a_mount_without_work_has_no_lease),
	    LEASE_TEST(another_mounts_message_is_noticed_soon),
	    LEASE_TEST(a_queue_that_another_mount_consumes_stays),
	};

	return cmocka_run_group_tests_name("sqlite lease", tests, NULL, NULL);
}
