//! Walks a template's tree over a value.

use super::{
    functions,
    go_format::print_value,
    parser::{Base, Command, Node, Operand, Pipe},
    value::Value,
};

/// How deep templates may call each other.
const DEPTH: usize = 100;

pub(super) struct Failure {
    pub(super) message: String,
    /// The node that failed, as Go prints it.
    pub(super) node: String,
    pub(super) position: usize,
}

pub(super) fn execute(
    root: &[Node],
    defined: &[(String, Vec<Node>)],
    data: &Value,
    header: bool,
    out: &mut String,
) -> Result<(), Failure> {
    let variables = vec![("$".to_owned(), data.clone())];
    Evaluator { defined, header, out, variables, depth: 0 }.nodes(root, data).map(drop)
}

/// What a node wants of the loop around it.
#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct Evaluator<'a> {
    defined: &'a [(String, Vec<Node>)],
    header: bool,
    out: &'a mut String,
    variables: Vec<(String, Value)>,
    depth: usize,
}

impl Evaluator<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, Failure> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, Failure> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    print_value(&value, self.out);
                }
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::If { pipe, then, otherwise } => {
                let scope = self.variables.len();
                let truth = self.pipe(pipe, dot)?.truth();
                let flow = self.nodes(if truth { then } else { otherwise }, dot);
                self.variables.truncate(scope);
                return flow;
            }
            Node::With { pipe, then, otherwise } => {
                let scope = self.variables.len();
                let value = self.pipe(pipe, dot)?;
                let flow = if value.truth() { self.nodes(then, &value) } else { self.nodes(otherwise, dot) };
                self.variables.truncate(scope);
                return flow;
            }
            Node::Range { pipe, body, otherwise } => {
                let scope = self.variables.len();
                let flow = self.range(pipe, body, otherwise, dot);
                self.variables.truncate(scope);
                return flow;
            }
            Node::Call { name, pipe, position } => self.call(name, pipe.as_ref(), *position, dot)?,
        }
        Ok(Flow::Next)
    }

    fn call(&mut self, name: &str, pipe: Option<&Pipe>, position: usize, dot: &Value) -> Result<(), Failure> {
        let fail = |message: String| {
            Err(Failure { message, node: format!("{{{{template \"{name}\"}}}}"), position })
        };
        let Some((_, nodes)) = self.defined.iter().rev().find(|(defined, _)| defined == name) else {
            return fail(format!("template \"{name}\" not defined"));
        };
        if self.depth == DEPTH {
            return fail(format!("exceeded maximum template depth ({DEPTH})"));
        }
        let data = match pipe {
            Some(pipe) => self.pipe(pipe, dot)?,
            None => Value::Nil,
        };
        let outer = std::mem::replace(&mut self.variables, vec![("$".to_owned(), data.clone())]);
        self.depth += 1;
        let result = self.nodes(nodes, &data);
        self.depth -= 1;
        self.variables = outer;
        result.map(drop)
    }

    fn range(
        &mut self,
        pipe: &Pipe,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, Failure> {
        let value = self.pipe_value(pipe, dot)?;
        let items: Vec<(Value, Value)> = match &value {
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| (Value::Int(index as i64), item.clone()))
                .collect(),
            Value::Map(members) => Value::sorted_members(members)
                .into_iter()
                .map(|(key, item)| (Value::Str(key), item))
                .collect(),
            Value::Int(count) => (0..*count).map(|index| (Value::Int(index), Value::Int(index))).collect(),
            Value::Missing | Value::Nil => Vec::new(),
            other => {
                let mut text = String::new();
                print_value(other, &mut text);
                return Err(Failure {
                    message: format!("range can't iterate over {text}"),
                    node: pipe.to_string(),
                    position: first_position(pipe),
                });
            }
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        let scope = self.variables.len();
        for (key, item) in items {
            self.variables.truncate(scope);
            match pipe.variables.as_slice() {
                [element] => self.bind(pipe.assigns, element, item.clone()),
                [index, element] => {
                    self.bind(pipe.assigns, index, key);
                    self.bind(pipe.assigns, element, item.clone());
                }
                _ => {}
            }
            if self.nodes(body, &item)? == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn bind(&mut self, assigns: bool, name: &str, value: Value) {
        if assigns && let Some(variable) = self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            variable.1 = value;
        } else {
            self.variables.push((name.to_owned(), value));
        }
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, Failure> {
        let value = self.pipe_value(pipe, dot)?;
        for name in &pipe.variables {
            self.bind(pipe.assigns, name, value.clone());
        }
        Ok(value)
    }

    fn pipe_value(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, Failure> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or_default())
    }

    fn command(&mut self, command: &Command, dot: &Value, last: Option<Value>) -> Result<Value, Failure> {
        // The parser makes no empty commands.
        let Some((first, rest)) = command.operands.split_first() else { return Ok(Value::Nil) };
        if let Base::Function(name) = &first.base {
            return self.function(name, command, first, rest, last, dot);
        }
        let mut args = self.arguments(rest, dot)?;
        args.extend(last);
        let value = self.base(&first.base, dot)?;
        self.fields(first, value, &args)
    }

    fn arguments(&mut self, operands: &[Operand], dot: &Value) -> Result<Vec<Value>, Failure> {
        operands.iter().map(|operand| self.operand(operand, dot)).collect()
    }

    fn function(
        &mut self,
        name: &str,
        command: &Command,
        first: &Operand,
        rest: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, Failure> {
        let fail = |message: String| Failure { message, node: command.to_string(), position: first.position };
        if name == "and" || name == "or" {
            // These two look at no argument more than they need.
            let mut value = None;
            for operand in rest {
                let next = self.operand(operand, dot)?;
                let decided = next.truth() == (name == "or");
                value = Some(next);
                if decided {
                    return Ok(value.unwrap_or_default());
                }
            }
            let value = last.or(value);
            return value
                .ok_or_else(|| fail(format!("wrong number of args for {name}: want at least 1 got 0")));
        }
        let mut args = self.arguments(rest, dot)?;
        args.extend(last);
        if self.header && functions::is_formatting(name) {
            return Ok(args.into_iter().find(|arg| matches!(arg, Value::Str(_))).unwrap_or_default());
        }
        functions::call(name, &args).map_err(fail)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, Failure> {
        if let Base::Function(name) = &operand.base {
            return functions::call(name, &[]).map_err(|message| Failure {
                message,
                node: operand.to_string(),
                position: operand.position,
            });
        }
        let value = self.base(&operand.base, dot)?;
        self.fields(operand, value, &[])
    }

    fn base(&mut self, base: &Base, dot: &Value) -> Result<Value, Failure> {
        Ok(match base {
            Base::Dot => dot.clone(),
            Base::Nil | Base::Function(_) => Value::Nil,
            Base::Bool(value) => Value::Bool(*value),
            Base::Int(value) => Value::Int(*value),
            Base::Float(value) => Value::Float(*value),
            Base::Str(text, _) => Value::string(text),
            Base::Variable(name) => self
                .variables
                .iter()
                .rev()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
                .unwrap_or_default(),
            Base::Pipe(pipe) => self.pipe(pipe, dot)?,
        })
    }

    fn fields(&self, operand: &Operand, mut value: Value, args: &[Value]) -> Result<Value, Failure> {
        let fail =
            |message: String| Failure { message, node: operand.to_string(), position: operand.position };
        let count = operand.fields.len();
        if count == 0 && !args.is_empty() {
            return Err(fail(format!("can't give argument to non-function {operand}")));
        }
        for (index, name) in operand.fields.iter().enumerate() {
            let args = if index + 1 == count { args } else { &[] };
            value = field(&value, name, args).map_err(fail)?;
        }
        Ok(value)
    }
}

fn field(value: &Value, name: &str, args: &[Value]) -> Result<Value, String> {
    let unknown = |kind: &str| format!("can't evaluate field {name} in type {kind}");
    match value {
        Value::Object(object) => match object.field(name, args) {
            Some(result) => result,
            None => Err(unknown(object.type_name())),
        },
        Value::Map(_) if args.is_empty() => Ok(value.get(name).cloned().unwrap_or_default()),
        Value::Map(_) => Err(format!("{name} is not a method but has arguments")),
        Value::Missing | Value::Nil => Err(format!("nil pointer evaluating interface {{}}.{name}")),
        other => Err(unknown(&other.type_name())),
    }
}

fn first_position(pipe: &Pipe) -> usize {
    let first = pipe.commands.first().and_then(|command| command.operands.first());
    first.map_or(0, |operand| operand.position)
}
