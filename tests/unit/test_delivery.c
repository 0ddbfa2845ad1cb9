/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <mqfs/delivery.h>

#define STATES MQFS_DELIVERY_STATES

/* The picture in delivery.h, drawn a second time: every move that isn't listed is forbidden. */
static const bool allowed[STATES][STATES] = {
    [MQFS_DELIVERY_PENDING] =
        {[MQFS_DELIVERY_CLAIMED] = true, [MQFS_DELIVERY_SETTLING] = true, [MQFS_DELIVERY_LOST] = true},
    [MQFS_DELIVERY_CLAIMED] = {[MQFS_DELIVERY_SETTLING] = true, [MQFS_DELIVERY_LOST] = true},
    [MQFS_DELIVERY_SETTLING] =
        {[MQFS_DELIVERY_CLAIMED] = true, [MQFS_DELIVERY_SETTLED] = true, [MQFS_DELIVERY_LOST] = true},
    [MQFS_DELIVERY_ARRIVING] =
        {[MQFS_DELIVERY_PENDING] = true, [MQFS_DELIVERY_SETTLING] = true, [MQFS_DELIVERY_LOST] = true},
};

static void allows_what_is_drawn(void **state)
{
	(void)state;
	for (int from = 0; from < STATES; from++)
		for (int to = 0; to < STATES; to++)
			assert_int_equal(mqfs_delivery_may(from, to), allowed[from][to]);
}

/* Every delivery can come to an end, and an end is one. */
static void every_state_leads_to_an_end(void **state)
{
	bool ends[STATES] = {[MQFS_DELIVERY_SETTLED] = true, [MQFS_DELIVERY_LOST] = true};

	(void)state;
	for (int round = 0; round < STATES; round++)
		for (int from = 0; from < STATES; from++)
			for (int to = 0; to < STATES; to++)
				if (mqfs_delivery_may(from, to) && ends[to])
					ends[from] = true;
	for (int from = 0; from < STATES; from++) {
		assert_true(ends[from]);
		assert_false(mqfs_delivery_may(MQFS_DELIVERY_SETTLED, from));
		assert_false(mqfs_delivery_may(MQFS_DELIVERY_LOST, from));
	}
}

static void names_every_state(void **state)
{
	(void)state;
	for (int i = 0; i < STATES; i++) {
		assert_non_null(mqfs_delivery_state_name(i));
		for (int j = 0; j < i; j++)
			assert_string_not_equal(mqfs_delivery_state_name(i), mqfs_delivery_state_name(j));
	}
	assert_string_equal(mqfs_delivery_state_name(MQFS_DELIVERY_PENDING), "pending");
}

static int owners_freed;

static void free_owner(void *owner)
{
	assert_ptr_equal(owner, &owners_freed);
	owners_freed++;
}

static void lives_as_long_as_a_reference(void **state)
{
	struct mqfs_message *message = unit_message("body");
	struct mqfs_body *body = mqfs_body_ref(message->body);
	struct mqfs_delivery *delivery = mqfs_delivery_new(message, "jobs");

	(void)state;
	assert_ptr_equal(delivery->message, message);
	assert_string_equal(delivery->queue, "jobs");
	assert_int_equal(delivery->state, MQFS_DELIVERY_PENDING);
	assert_int_equal(delivery->place, MQFS_PLACE_READY);
	assert_int_equal(delivery->delivery_count, -1);
	assert_null(delivery->exchange);
	delivery->exchange = strdup("exchange");
	delivery->routing_key = strdup("key");
	delivery->error = strdup("error");
	delivery->owner = &owners_freed;
	delivery->owner_free = free_owner;

	assert_ptr_equal(mqfs_delivery_ref(delivery), delivery);
	assert_null(mqfs_delivery_unref(delivery));
	assert_int_equal(owners_freed, 0);
	assert_int_equal(atomic_load(&body->references), 2);
	assert_null(mqfs_delivery_unref(delivery));
	assert_int_equal(owners_freed, 1);
	assert_int_equal(atomic_load(&body->references), 1);
	mqfs_body_unref(body);
	assert_null(mqfs_delivery_unref(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(allows_what_is_drawn),
	    cmocka_unit_test(every_state_leads_to_an_end),
	    cmocka_unit_test(names_every_state),
	    cmocka_unit_test(lives_as_long_as_a_reference),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
