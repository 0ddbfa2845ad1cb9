/* SPDX-License-Identifier: MIT */
#include "contract.h"

static void declare_find_delete(void **state)
{
	const char *queue = make_queue();

	(void)state;
	assert_int_equal(find(backend, queue), 0);
	assert_int_equal(delete_queue(queue), 0);
	assert_int_equal(find(backend, queue), -ENOENT);
}

static void find_makes_nothing(void **state)
{
	const char *queue = make_name();

	(void)state;
	assert_int_equal(find(backend, queue), -ENOENT);
	assert_int_equal(find(backend, queue), -ENOENT);
}

static void declare_again_exists(void **state)
{
	const char *queue = make_queue();

	(void)state;
	assert_int_equal(declare(queue), -EEXIST);
	settings.max_priority = 3;
	settings.message_ttl_ms = 5000;
	assert_int_equal(declare(queue), -EEXIST);
	publish(queue, "still usable");
	assert_true(ready_becomes(queue, 1));
}

static void another_mount_attaches(void **state)
{
	struct mqfs_backend *other = open_another();
	const char *queue = make_queue();
	struct intake *intake;

	(void)state;
	assert_int_equal(find(other, queue), 0);
	publish(queue, "across");
	intake = intake_new(other, queue, 1);
	assert_true(has_body(intake_next(intake), "across"));
}

static void strange_names(void **state)
{
	static const char *const endings[] = {"/slash", ".dead.not", " space", "\xC3\xBC", "%41"};
	mqfs_name_t name;

	(void)state;
	for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++) {
		snprintf(name, sizeof(name), "%s%s", make_name(), endings[i]);
		assert_int_equal(declare(name), 0);
		assert_int_equal(find(backend, name), 0);
		publish(name, "x");
		assert_int_equal(delete_queue(name), -ENOTEMPTY);
		settle(intake_next(intake_new(backend, name, 1)), MQFS_VERB_ACK);
		contract_teardown(NULL);
		assert_int_equal(delete_queue(name), 0);
	}
}

static void long_names(void **state)
{
	char name[MQFS_QUEUE_NAME_MKDIR_MAX + 1];

	(void)state;
	memset(name, 'q', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	memcpy(name, make_name(), 30);
	assert_int_equal(declare(name), 0);
	assert_int_equal(find(backend, name), 0);
	assert_int_equal(delete_queue(name), 0);
}

static void delete_what_is_not_there(void **state)
{
	(void)state;
	assert_int_equal(delete_queue(make_name()), -ENOENT);
}

static void delete_refuses_content(void **state)
{
	const char *queue = make_queue();
	struct reader *reader;

	(void)state;
	publish(queue, "content");
	assert_true(ready_becomes(queue, 1));
	assert_int_equal(delete_queue(queue), -ENOTEMPTY);
	assert_int_equal(find(backend, queue), 0);

	/* In dead/ it is content too. */
	reader = reader_new(backend, queue);
	assert_int_equal(mqfs_consumer_settle(window(reader), claim(reader), MQFS_SETTLE_BURY), 0);
	assert_true(dead_becomes(queue, 1));
	assert_int_equal(window_stop(reader), 0);
	assert_int_equal(delete_queue(queue), -ENOTEMPTY);
	assert_int_equal(find(backend, queue), 0);
	assert_true(dead_becomes(queue, 1));
}

static void delete_refuses_retries(void **state)
{
	const char *queue = make_queue();
	struct reader *reader;

	(void)state;
	settings.backoff_base_ms = 60000;
	reader = reader_new(backend, queue);
	publish(queue, "content");
	assert_int_equal(mqfs_consumer_settle(window(reader), claim(reader), MQFS_SETTLE_RETRY), 0);
	assert_true(retry_becomes(queue, 1));
	assert_int_equal(window_stop(reader), 0);
	assert_int_equal(delete_queue(queue), -ENOTEMPTY);
	assert_int_equal(find(backend, queue), 0);
	assert_true(retry_becomes(queue, 1));
}

static void delete_refuses_others_consumers(void **state)
{
	struct mqfs_backend *other = open_another();
	const char *queue = make_queue();
	struct intake *intake = intake_new(other, queue, 1);

	(void)state;
	assert_true(WAIT_UNTIL(intake->prepared_count > 0, ENOUGH_MS));
	for (int tries = 0; depths(queue).consumers == 0 && tries < 100; tries++)
		sleep_ms(20);
	assert_int_equal(delete_queue(queue), -EBUSY);
	intake_stop(intake);
	assert_int_equal(delete_queue(queue), 0);
}

struct listing {
	bool done, listed;
	int result;
	size_t count;
	const char *wanted;
};

static void list_done(void *arg, int result, const char *const *queues, size_t count)
{
	struct listing *listing = arg;

	shared_lock();
	listing->result = result;
	listing->count = count;
	for (size_t i = 0; i < count; i++)
		listing->listed |= strcmp(queues[i], listing->wanted) == 0;
	listing->done = true;
	shared_changed();
	shared_unlock();
}

static void list_names_work_queues(void **state)
{
	struct listing listing = {.wanted = make_queue()};

	(void)state;
	mqfs_queue_list(backend, list_done, &listing);
	assert_true(WAIT_UNTIL(listing.done, ENOUGH_MS));
	assert_int_equal(listing.result, 0);
	if (is_amqp())
		assert_int_equal(listing.count, 0); /* impossible over AMQP */
	else
		assert_true(listing.listed);
}

static void depths_count(void **state)
{
	const char *queue = make_queue();
	struct mqfs_depths found;

	(void)state;
	publish(queue, "one");
	publish(queue, "two");
	assert_true(ready_becomes(queue, 2));
	found = depths(queue);
	assert_int_equal(found.retry, 0);
	assert_int_equal(found.dead, 0);
	assert_int_equal(found.consumers, 0);
}

int test_queues(void)
{
	const struct CMUnitTest tests[] = {
	    contract_test(declare_find_delete),
	    contract_test(find_makes_nothing),
	    contract_test(declare_again_exists),
	    contract_test(another_mount_attaches),
	    contract_test(strange_names),
	    contract_test(long_names),
	    contract_test(delete_what_is_not_there),
	    contract_test(delete_refuses_content),
	    contract_test(delete_refuses_retries),
	    contract_test(delete_refuses_others_consumers),
	    contract_test(list_names_work_queues),
	    contract_test(depths_count),
	};

	return cmocka_run_group_tests_name("queues", tests, NULL, NULL);
}
