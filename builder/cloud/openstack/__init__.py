"""The Cloud contract on a real OpenStack: the one door to openstacksdk and keystoneauth.

openstacksdk reads clouds.yaml and logs in; every request to Glance and Swift is made here, once.
openstacksdk's own image calls re-send a broken PUT from the end of the file, take any status for
success and rename properties, so none is used.

    clouds_yaml    what clouds.yaml says, and what is wrong with it
    login          one login per cloud, shared by its regions
    connection     where a provider's services are
    requester      one request, or one PUT; pace, answer
    failures       what an error or a refusal means
    documents      images, tasks and quotas in Glance's JSON
    swift          objects for the tasks way
    cloud          OpenStackCloud: the contract, in requests
"""

from __future__ import annotations

from builder.cloud.openstack.cloud import OpenStackCloud
from builder.cloud.openstack.clouds_yaml import config_files, image_format_of

__all__ = ["OpenStackCloud", "config_files", "image_format_of"]
