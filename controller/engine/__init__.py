"""The path of a claim: from a version of its Secret to one deadline, from its deadline to a written token."""
