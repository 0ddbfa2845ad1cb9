/* SPDX-License-Identifier: MIT */
#ifndef MQFS_TESTS_UNIT_STATE_FIXTURE_H
#define MQFS_TESTS_UNIT_STATE_FIXTURE_H

/* What the tests of the state file share. path (sqlite_fixture.h) is the file's after open_state. */
#include "sqlite_fixture.h"

#include <mqfs/state.h>

#include "state/internal.h"

#define BROKER "amqp://host:5672/vhost"

static inline int try_state(const char *url, struct mqfs_state **ret_state, char **ret_error)
{
	return mqfs_state_open(directory, url, ret_state, ret_error);
}

static inline struct mqfs_state *open_state(const char *url)
{
	struct mqfs_state *opened = NULL;
	char *error = NULL;

	if (try_state(url, &opened, &error) < 0)
		fail_msg("%s", error);
	snprintf(path, sizeof(path), "%s", mqfs_state_path(opened));
	return opened;
}

#endif
