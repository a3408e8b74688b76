//! What to run, once it is known to make sense.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::error::StartError;
use crate::listener::Address;
use crate::spec::{Service, processor_count};

/// All services, and where to listen for them.
pub(crate) struct Plan {
    pub services: Vec<Planned>,
    pub addresses: BTreeMap<String, Address>,
}

/// A service and how many instances of it are wanted.
pub(crate) struct Planned {
    pub service: Rc<Service>,
    pub count: u32,
}

impl Plan {
    /// Finds what is wrong before anything is started. Addresses of sockets that are there already, by name, do not matter.
    pub(crate) fn new(services: &[Service], is_bound: impl Fn(&str) -> bool) -> Result<Plan, StartError> {
        if services.is_empty() {
            return Err(StartError::NoServices);
        }
        let mut plan: Vec<Planned> = Vec::new();
        let mut addresses: BTreeMap<String, Address> = BTreeMap::new();
        for service in services {
            service.validate()?;
            if plan.iter().any(|planned| planned.service.name == service.name) {
                return Err(StartError::DuplicateName { name: service.name.clone() });
            }
            for (name, address) in &service.listeners {
                if !is_bound(name) {
                    address.validate()?;
                }
                match addresses.get(name) {
                    Some(known) if known != address => {
                        return Err(StartError::ListenerConflict {
                            name: name.clone(),
                            first: known.to_string(),
                            second: address.to_string(),
                        });
                    }
                    _ => {
                        addresses.insert(name.clone(), address.clone());
                    }
                }
            }
            let count = match service.count {
                Some(count) => count,
                None => processor_count()?,
            };
            plan.push(Planned { service: Rc::new(service.clone()), count });
        }
        check_dependencies(services)?;
        Ok(Plan { services: plan, addresses })
    }
}

/// Finds dependencies on nothing, and on each other.
fn check_dependencies(services: &[Service]) -> Result<(), StartError> {
    let find = |name: &String| services.iter().find(|service| service.name == *name);
    for service in services {
        for dependency in &service.dependencies {
            if find(dependency).is_none() {
                let (name, dependency) = (service.name.clone(), dependency.clone());
                return Err(StartError::UnknownDependency { name, dependency });
            }
        }
    }
    // Whoever follows dependencies for longer than there are services has come back to one.
    fn follow<'services>(
        service: &'services Service,
        path: &mut Vec<&'services str>,
        find: &impl Fn(&String) -> Option<&'services Service>,
    ) -> Result<(), StartError> {
        if let Some(start) = path.iter().position(|name| *name == service.name) {
            let names = path[start..].iter().chain([&service.name.as_str()]).map(|name| (*name).to_owned()).collect();
            return Err(StartError::CircularDependency { names });
        }
        path.push(&service.name);
        service.dependencies.iter().filter_map(find).try_for_each(|dependency| follow(dependency, path, find))?;
        path.pop();
        Ok(())
    }
    services.iter().try_for_each(|service| follow(service, &mut Vec::new(), &find))
}
